"""Runs the compiled graph: memory of the KV cache and of the adapter slots, one forward pass a step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from triton_models.cpu_engine.adapter_layout import Adapter, module_sizes
from triton_models.cpu_engine.adapter_staging import AdapterStaging
from triton_models.cpu_engine.forward_pass import Row
from triton_models.cpu_engine.graph import (
    LORA_MASK,
    SAMPLED_INDICES,
    Weights,
    build_graph,
    lora_input_names,
)
from triton_models.cpu_engine.model_card import ModelCard

BLOCK_TOKENS = 32  # the CPU plugin's own block size

_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": "NO",  # other processes share these cores
}


@dataclass(frozen=True, slots=True)
class ExecutorShape:
    """Sizes fixed at start."""

    kv_blocks: int
    adapter_slots: int
    max_rank: int
    threads: int


class Executor:
    """A compiled model with its caches; not thread-safe."""

    def __init__(self, card: ModelCard, weights: Weights, shape: ExecutorShape) -> None:
        self._weights = weights  # the graph's constants live in this memory
        places = itertools.product(range(card.layers), module_sizes(card).items())
        sizes = {(layer, module): size for layer, (module, size) in places}
        self._adapters = AdapterStaging(sizes, shape.adapter_slots, shape.max_rank)
        options = _EXACT | {"INFERENCE_NUM_THREADS": shape.threads}
        compiled = ov.Core().compile_model(build_graph(card, weights), "CPU", options)
        self._request = compiled.create_infer_request()
        self._kv_cache = self._allocate_kv_cache(compiled, shape.kv_blocks)

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Fill a slot; modules without a term behave as in the base model."""
        self._adapters.store(slot, adapter)

    def forget_blocks(self, blocks: Sequence[int]) -> None:
        """Zero KV blocks.

        Today's attention kernel reads nothing that a sequence did not write itself. OpenVINO does not promise that,
        so values that are not finite are removed.
        """
        for cache in self._kv_cache:
            cache[list(blocks)] = 0

    def forward(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Compute the rows' tokens in one pass.

        Returns:
            Logits [rows that sample, vocabulary] in the rows' order, valid until the next call.
        """
        counts = np.array([len(row.tokens) for row in rows])
        ends = np.cumsum(counts)
        held = [row.blocks[: -(-(row.start + len(row.tokens)) // BLOCK_TOKENS)] for row in rows]
        sampled = [int(end) - 1 for row, end in zip(rows, ends, strict=True) if row.samples]
        positions = [np.arange(row.start, row.start + len(row.tokens)) for row in rows]
        slots = [row.adapter_slot for row in rows]
        self._bind_adapters(slots)
        inputs = {
            "input_ids": np.concatenate([row.tokens for row in rows]).astype(np.int64),
            "position_ids": np.concatenate(positions).astype(np.int64),
            "past_lens": np.array([row.start for row in rows], np.int32),
            "subsequence_begins": np.concatenate([[0], ends]).astype(np.int32),
            "block_indices": np.concatenate(held).astype(np.int32),
            "block_indices_begins": np.concatenate([[0], np.cumsum([len(one) for one in held])]).astype(
                np.int32
            ),
            "max_context_len": np.array(max(row.start + len(row.tokens) for row in rows), np.int32),
            LORA_MASK: self._adapters.mask(slots, counts),
            # Compute one position even where none is wanted, to avoid an empty MatMul.
            SAMPLED_INDICES: np.array(sampled or [0], np.int64),
        }
        for name, array in inputs.items():
            self._request.set_tensor(name, ov.Tensor(array))
        self._request.infer()
        logits: npt.NDArray[np.float32] = self._request.get_output_tensor(0).data
        return logits[: len(sampled), 0]

    def _bind_adapters(self, slots: Sequence[int | None]) -> None:
        for (layer, module), matrices in (self._adapters.stage(slots) or {}).items():
            for name, matrix in zip(lora_input_names(layer, module), matrices, strict=True):
                self._request.set_tensor(name, ov.Tensor(matrix, shared_memory=True))

    def _allocate_kv_cache(self, compiled: Any, blocks: int) -> list[npt.NDArray[np.float32]]:
        caches = []
        for port in compiled.inputs:
            name = port.get_any_name()
            if name.startswith(("key_cache.", "value_cache.")):
                _, *rest = port.get_partial_shape()
                cache = np.zeros([blocks, *(size.get_length() for size in rest)], np.float32)
                if cache.shape[2] != BLOCK_TOKENS or port.get_element_type() != ov.Type.f32:
                    raise RuntimeError(f"unexpected KV layout {cache.shape} {port.get_element_type()}")
                self._request.set_tensor(name, ov.Tensor(cache, shared_memory=True))
                caches.append(cache)
        return caches
