"""TensorRT-LLM's wire layout of LoRA adapters: `lora_weights` and `lora_config`.

A row of weights is A [rank, in] row-major, then B [out, rank] row-major with the LoRA scale folded in, then zero
padding; the same row of the configuration is [module id, layer, rank] or [module id, layer, rank, is_dora].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_models.cpu_engine.errors import RequestError
from triton_models.cpu_engine.model_card import ModelCard

Floats = npt.NDArray[np.floating[Any]]


class LoraModule(IntEnum):
    """The modules of a llama model that take a low-rank term, by TensorRT-LLM's ids (`loraModule.h`)."""

    ATTN_Q = 1
    ATTN_K = 2
    ATTN_V = 3
    ATTN_DENSE = 4
    MLP_H_TO_4H = 5  # Hugging Face's gate_proj; the comments of the shipped config.pbtxt are wrong
    MLP_4H_TO_H = 6
    MLP_GATE = 7  # up_proj

    @property
    def wire_name(self) -> str:
        """The name in TensorRT-LLM's messages."""
        return self.name.lower()


_OTHER_MODULES = {
    0: "attn_qkv",
    8: "cross_attn_qkv",
    9: "cross_attn_q",
    10: "cross_attn_k",
    11: "cross_attn_v",
    12: "cross_attn_dense",
    13: "moe_h_to_4h",
    14: "moe_4h_to_h",
    15: "moe_gate",
    16: "moe_router",
    17: "mlp_router",
    18: "mlp_gate_up",
}


@dataclass(frozen=True, slots=True)
class LowRank:
    """One module's low-rank term: y += (x @ a.T) @ b.T."""

    a: Floats
    """[rank, in]"""
    b: Floats
    """[out, rank], the scale folded in."""

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return int(self.a.shape[0])


Adapter = Mapping[tuple[int, LoraModule], LowRank]
"""The terms by (layer, module)."""


def module_sizes(card: ModelCard) -> dict[LoraModule, tuple[int, int]]:
    """(in, out) of each module of a model."""
    hidden, query = card.hidden_size, card.attention_heads * card.head_size
    key_value = card.key_value_heads * card.head_size
    return {
        LoraModule.ATTN_Q: (hidden, query),
        LoraModule.ATTN_K: (hidden, key_value),
        LoraModule.ATTN_V: (hidden, key_value),
        LoraModule.ATTN_DENSE: (query, hidden),
        LoraModule.MLP_H_TO_4H: (hidden, card.mlp_width),
        LoraModule.MLP_4H_TO_H: (card.mlp_width, hidden),
        LoraModule.MLP_GATE: (hidden, card.mlp_width),
    }


def unpack(weights: Floats, config: npt.NDArray[np.int32], card: ModelCard, max_rank: int) -> Adapter:
    """Check an adapter off the wire against a model and take it apart.

    Args:
        weights: [rows, width]; a leading axis of 1 is dropped.
        config: [rows, 3 or 4]; a leading axis of 1 is dropped.
        card: The base model.
        max_rank: The largest rank accepted.

    Returns:
        Views into `weights`.

    Raises:
        RequestError: the adapter does not fit the model; the text is TensorRT-LLM's where it has one.
    """
    weights = weights[0] if weights.ndim == 3 and weights.shape[0] == 1 else weights
    config = config[0] if config.ndim == 3 and config.shape[0] == 1 else config
    if weights.ndim != 2 or config.ndim != 2:
        raise RequestError("Invalid shape for lora_weights tensor")
    if len(weights) != len(config) or len(config) == 0:
        raise RequestError("Expected dim1 lora_weights and lora_keys to have the same size")
    if config.shape[1] not in (3, 4):
        raise RequestError("Expected dim2 of lora_keys to have a size in [3, 4]")
    sizes = module_sizes(card)
    adapter: dict[tuple[int, LoraModule], LowRank] = {}
    for row, (module_id, layer, rank, *is_dora) in zip(weights, config.tolist(), strict=True):
        module = _module(module_id)
        if not 0 <= layer < card.layers:
            raise RequestError("Expected layerId to be in the range [0, numModelLayers)")
        if not 0 < rank <= max_rank:
            raise RequestError(
                f"Invalid low_rank ({rank}). low_rank must be smaller than mMaxLowRank ({max_rank})"
            )
        if any(is_dora):
            raise RequestError(f"lora module {module.wire_name} has a DoRA magnitude; DoRA is not supported")
        if (layer, module) in adapter:
            raise RequestError(f"lora module {module.wire_name} of layer {layer} is given twice")
        adapter[layer, module] = _low_rank(row, rank, module, *sizes[module])
    return adapter


def _module(module_id: int) -> LoraModule:
    try:
        return LoraModule(module_id)
    except ValueError:
        name = _OTHER_MODULES.get(module_id, str(module_id))
        raise RequestError(f"lora module {name} not enabled for this model") from None


def _low_rank(row: Floats, rank: int, module: LoraModule, in_size: int, out_size: int) -> LowRank:
    split, end = rank * in_size, rank * (in_size + out_size)
    if len(row) < end:
        raise RequestError(f"lora_weights has to few values for {module.wire_name}")
    # One infinity would reach every row of a batch: masking multiplies by zero, and 0 * inf is not a number.
    if not np.isfinite(row[:end]).all():
        raise RequestError(f"lora_weights has non-finite values for {module.wire_name}")
    return LowRank(a=row[:split].reshape(rank, in_size), b=row[split:end].reshape(out_size, rank))


def pack(
    adapter: Adapter, *, columns: int = 4, dtype: npt.DTypeLike = np.float16
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Put an adapter on the wire: the inverse of `unpack`, without the leading batch axis.

    Args:
        adapter: The terms; at least one.
        columns: 3, or 4 with a zero `is_dora` column.
        dtype: The engine's own type.
    """
    if columns not in (3, 4):
        raise ValueError("lora_config has 3 or 4 columns")
    rows = [np.concatenate([term.a.ravel(), term.b.ravel()]) for term in adapter.values()]
    weights = np.zeros((len(rows), max(map(len, rows))), dtype)
    for target, row in zip(weights, rows, strict=True):
        target[: len(row)] = row
    config = [[module, layer, term.rank, 0][:columns] for (layer, module), term in adapter.items()]
    return weights, np.array(config, np.int32)
