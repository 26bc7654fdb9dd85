"""LoRA adapters for tests, as TensorRT-LLM's wire tensors with the batch axis."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from triton_models.cpu_engine.adapter_layout import LoraModule, LowRank, module_sizes, pack
from triton_models.cpu_engine.model_card import ModelCard

_MODULES = {
    "q_proj": LoraModule.ATTN_Q,
    "k_proj": LoraModule.ATTN_K,
    "v_proj": LoraModule.ATTN_V,
    "o_proj": LoraModule.ATTN_DENSE,
    "gate_proj": LoraModule.MLP_H_TO_4H,
    "up_proj": LoraModule.MLP_GATE,
    "down_proj": LoraModule.MLP_4H_TO_H,
}
_KEY = re.compile(r"\.layers\.(\d+)\.\w+\.(\w+)\.lora_A\.weight$")

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


def peft_adapter(directory: Path, task_id: int) -> WireTensors:
    """Read an adapter in PEFT's format."""
    config = json.loads((directory / "adapter_config.json").read_text("utf-8"))
    tensors = load_file(directory / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    adapter = {}
    for key, a in tensors.items():
        if found := _KEY.search(key):
            b = tensors[key.replace("lora_A", "lora_B")] * scale
            adapter[int(found[1]), _MODULES[found[2]]] = LowRank(a, b)
    return wire_tensors(adapter, task_id)


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
