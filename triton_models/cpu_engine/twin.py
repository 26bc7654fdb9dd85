"""Puts the engine together from the parameters of the Triton model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from triton_models.cpu_engine.adapter_cache import AdapterCache
from triton_models.cpu_engine.batching import BatchLimits, BatchScheduler
from triton_models.cpu_engine.engine import Engine
from triton_models.cpu_engine.executor import BLOCK_TOKENS, Executor, ExecutorShape
from triton_models.cpu_engine.graph import map_safetensors
from triton_models.cpu_engine.model_card import ModelCard
from triton_models.cpu_engine.paged_blocks import BlockPool


@dataclass(frozen=True, slots=True)
class TwinParameters:
    """The `parameters` of `config.pbtxt` that size the engine."""

    model_directory: Path
    """A directory made by `preparation.prepare`."""
    kv_cache_blocks: int
    max_sequences: int
    max_batch_tokens: int
    max_waiting: int
    lora_cache_slots: int
    lora_cache_max_adapter_size: int
    """The largest rank; each slot holds one adapter of it."""
    threads: int
    exclude_input_in_output: bool
    http_port: int
    """The server's own; the model notices by it that the server is stopping."""

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> TwinParameters:
        """Read them from their text.

        Raises:
            KeyError: one is missing.
            ValueError: one is not a number.
        """
        return cls(
            model_directory=Path(parameters["model_directory"]),
            kv_cache_blocks=int(parameters["kv_cache_blocks"]),
            max_sequences=int(parameters["max_sequences"]),
            max_batch_tokens=int(parameters["max_batch_tokens"]),
            max_waiting=int(parameters["max_waiting"]),
            lora_cache_slots=int(parameters["lora_cache_slots"]),
            lora_cache_max_adapter_size=int(parameters["lora_cache_max_adapter_size"]),
            threads=int(parameters["threads"]),
            exclude_input_in_output=parameters["exclude_input_in_output"].lower() == "true",
            http_port=int(parameters["http_port"]),
        )


def build_engine(parameters: TwinParameters) -> Engine:
    """Compile the model and put an idle engine around it; takes a few seconds.

    Raises:
        OSError: the prepared model cannot be read.
    """
    card = ModelCard.read(parameters.model_directory / "model_card.json")
    executor = Executor(
        card,
        map_safetensors(parameters.model_directory / "hf" / "model.safetensors"),
        ExecutorShape(
            kv_blocks=parameters.kv_cache_blocks,
            adapter_slots=parameters.lora_cache_slots,
            max_rank=parameters.lora_cache_max_adapter_size,
            threads=parameters.threads,
        ),
    )
    limits = BatchLimits(
        max_sequences=parameters.max_sequences,
        max_batch_tokens=parameters.max_batch_tokens,
        max_waiting=parameters.max_waiting,
        context_tokens=card.context_tokens,
    )
    return Engine(
        card,
        executor,
        BatchScheduler(BlockPool(parameters.kv_cache_blocks, BLOCK_TOKENS), limits),
        AdapterCache(parameters.lora_cache_slots),
        parameters.lora_cache_max_adapter_size,
    )
