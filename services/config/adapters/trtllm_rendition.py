"""Renders an adapter for TensorRT-LLM's engine backend: `lora_weights` and `lora_config`. Pure.

    row = flatten(A [r, in]) ++ flatten(scale * B [out, r]) ++ zeros up to the widest row
    config row = [module id, layer, r] (++ [is_dora = 0] where the server declares four columns)

Module ids and the folded scale are those of TensorRT-LLM's examples/hf_lora_convert.py, releases up to 1.2; note that
gate_proj is mlp_h_to_4h (5) and up_proj is mlp_gate (7).
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.errors import FieldViolation, InvalidArgumentError
from services.config.adapters.element_types import ELEMENT_TYPES, Encoded
from services.config.adapters.peft import WEIGHTS_FILE, LoraModule, PeftAdapter

MODULE_IDS = {
    "q_proj": 1,
    "k_proj": 2,
    "v_proj": 3,
    "o_proj": 4,
    "gate_proj": 5,
    "down_proj": 6,
    "up_proj": 7,
}


@dataclass(frozen=True, slots=True)
class RenderedAdapter:
    """The tensors as one safetensors blob."""

    data: bytes
    """`lora_weights` [rows, width] and `lora_config` [rows, columns] int32."""
    sha256: str


def render(adapter: PeftAdapter, dtype: str, columns: int) -> RenderedAdapter:
    """Render for servers that declare an element type and a number of config columns.

    Raises:
        InvalidArgumentError: the element type or the number of columns is not supported, or a weight does not fit.
    """
    kind = ELEMENT_TYPES.get(dtype)
    if kind is None:
        what = f"{dtype} is none of {', '.join(ELEMENT_TYPES)}"
        raise InvalidArgumentError([FieldViolation("adapter_dtype", what)])
    if columns not in (3, 4):
        raise InvalidArgumentError([FieldViolation("adapter_config_columns", f"is {columns}, not 3 or 4")])
    width = max(module.a.size + module.b.size for module in adapter.modules)
    weights = np.zeros((len(adapter.modules), width), kind.stored)
    config = np.zeros((len(adapter.modules), columns), np.int32)
    for number, module in enumerate(adapter.modules):
        row = kind.encode(_row(module, adapter.scale))
        if not np.isfinite(kind.decode(row)).all():
            what = f"a scaled weight does not fit {dtype}"
            raise InvalidArgumentError([FieldViolation(WEIGHTS_FILE, what)])
        weights[number, : row.size] = row
        config[number, :3] = MODULE_IDS[module.module], module.layer, module.rank
    data = _file(config, weights, kind.safetensors_name)
    return RenderedAdapter(data, hashlib.sha256(data).hexdigest())


def _file(config: npt.NDArray[np.int32], weights: Encoded, weights_type: str) -> bytes:
    """Write a safetensors file (format 0.x): equal tensors give equal bytes, with every version of the library."""
    end = config.nbytes + weights.nbytes
    header = {
        "lora_config": {"dtype": "I32", "shape": config.shape, "data_offsets": [0, config.nbytes]},
        "lora_weights": {"dtype": weights_type, "shape": weights.shape, "data_offsets": [config.nbytes, end]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, config.tobytes(), weights.tobytes()])


def _row(module: LoraModule, scale: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    # A product that does not fit becomes infinite and is refused by the caller, so NumPy need not warn of it.
    with np.errstate(over="ignore", invalid="ignore"):  # proven: overflow-is-refused
        scaled = module.b * np.float32(scale)
    return np.concatenate([module.a.ravel(), scaled.ravel()])
