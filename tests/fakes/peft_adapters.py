"""LoRA adapters for tests, as TensorRT-LLM's wire tensors with the batch axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from services.config.adapters.peft import WEIGHTS_FILE, Shape, parse_peft
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.adapters.trtllm_rendition import render
from triton_models.cpu_engine.adapter_layout import LoraModule, LowRank, module_sizes, pack
from triton_models.cpu_engine.model_card import ModelCard

WireTensors = dict[str, npt.NDArray[np.generic]]


def wire_tensors(
    adapter: dict[tuple[int, LoraModule], LowRank], task_id: int, columns: int = 4
) -> WireTensors:
    weights, config = pack(adapter, columns=columns)
    return {
        "lora_task_id": np.array([[task_id]], np.uint64),
        "lora_weights": weights[None],
        "lora_config": config[None],
    }


def peft_adapter(directory: Path, task_id: int, shape: Shape) -> WireTensors:
    """Read an adapter in PEFT's format, and render it as the config service does."""
    config, weights = ((directory / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE))
    rendered = load(render(parse_peft(config, weights, shape), "float16", columns=4).data)
    return {
        "lora_task_id": np.array([[task_id]], np.uint64),
        "lora_weights": rendered["lora_weights"][None],
        "lora_config": rendered["lora_config"][None],
    }


def random_adapter(
    card: ModelCard, task_id: int, *, seed: int, rank: int = 4, spread: float = 0.12, columns: int = 4
) -> WireTensors:
    """Noise of that size on Q, V and the down projection of every layer; the default changes every answer."""
    random = np.random.default_rng(seed)
    adapter = {}
    for module in (LoraModule.ATTN_Q, LoraModule.ATTN_V, LoraModule.MLP_4H_TO_H):
        into, out = module_sizes(card)[module]
        for layer in range(card.layers):
            a, b = random.normal(0, spread, (rank, into)), random.normal(0, spread, (out, rank))
            adapter[layer, module] = LowRank(a.astype(np.float16), b.astype(np.float16))
    return wire_tensors(adapter, task_id, columns)
