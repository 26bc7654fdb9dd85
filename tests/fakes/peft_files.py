"""A small LoRA adapter as PEFT's two files, and ways to spoil it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP = 2, 8, 2, 1, 4, 12
PREFIX = "base_model.model.model.layers"
Tensors = dict[str, Any]


def peft_files(changes: Mapping[str, Any] | None = None, **config: Any) -> tuple[bytes, bytes, Tensors]:
    """The config's and the weights' bytes, and the tensors; a change to None leaves a tensor out."""
    rng = np.random.default_rng(1)
    tensors: Tensors = {
        f"{PREFIX}.0.self_attn.q_proj.lora_A.weight": rng.standard_normal((2, 8)).astype(np.float16),
        f"{PREFIX}.0.self_attn.q_proj.lora_B.weight": rng.standard_normal((8, 2)).astype(np.float16),
        f"{PREFIX}.1.mlp.down_proj.lora_A.weight": rng.standard_normal((2, 12)).astype(np.float16),
        f"{PREFIX}.1.mlp.down_proj.lora_B.weight": rng.standard_normal((8, 2)).astype(np.float16),
    }
    tensors.update(changes or {})
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", **config}
    weights = save({name: tensor for name, tensor in tensors.items() if tensor is not None})
    return json.dumps(document).encode(), weights, tensors
