"""Builds the llama graph: paged attention, LoRA terms as inputs, logits of sampled positions only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op
from openvino._offline_transformations import paged_attention_transformation
from openvino.op.util import Variable, VariableInfo

from triton_models.cpu_engine.adapter_layout import LoraModule, module_sizes
from triton_models.cpu_engine.model_card import ModelCard

Weights = dict[str, npt.NDArray[np.float32]]

LORA_MASK = "lora_mask"
SAMPLED_INDICES = "sampled_indices"
LOGITS = "logits"

_PROJECTIONS = {
    LoraModule.ATTN_Q: "self_attn.q_proj",
    LoraModule.ATTN_K: "self_attn.k_proj",
    LoraModule.ATTN_V: "self_attn.v_proj",
    LoraModule.ATTN_DENSE: "self_attn.o_proj",
    LoraModule.MLP_H_TO_4H: "mlp.gate_proj",
    LoraModule.MLP_4H_TO_H: "mlp.down_proj",
    LoraModule.MLP_GATE: "mlp.up_proj",
}
_MASKED = 1e9


def lora_input_names(layer: int, module: LoraModule) -> tuple[str, str]:
    """Names of the graph inputs with a module's A [rows, in] and transposed B [rows, out] of all adapters."""
    return f"lora_a.{layer}.{module.wire_name}", f"lora_b.{layer}.{module.wire_name}"


def map_safetensors(path: Path) -> Weights:
    """Map the f32 tensors of a safetensors file into memory, without copying.

    Args:
        path: A file whose tensors are all F32 (https://huggingface.co/docs/safetensors, "Format").

    Raises:
        ValueError: a tensor has another type.
    """
    # Copy-on-write, since OpenVINO shares memory of writable arrays only; nothing ever writes.
    file = np.memmap(path, np.uint8, "c")
    header_bytes = int.from_bytes(file[:8].tobytes(), "little")
    header: dict[str, dict[str, Any]] = json.loads(file[8 : 8 + header_bytes].tobytes())
    body = file[8 + header_bytes :]
    weights: Weights = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} is {entry['dtype']}, not F32")
        start, end = entry["data_offsets"]
        weights[name] = body[start:end].view(np.float32).reshape(entry["shape"])
    return weights


def build_graph(card: ModelCard, weights: Weights) -> ov.Model:
    """Build the model, as exact f32 arithmetic over mapped weights.

    A LoRA term is `((x @ A.T) * mask) @ B` with the A and B of all adapter slots stacked and a 0/1 mask
    [tokens, 1, rows] that leaves each token its own adapter's rows: one batch mixes any adapters, and a new
    adapter is a write into memory.

    Inputs (after the paged-attention transformation, tokens of all sequences in one row): `input_ids` and
    `position_ids` [tokens], `past_lens`, `subsequence_begins`, `block_indices`, `block_indices_begins`,
    `max_context_len`, `key_cache.N`, `value_cache.N`, the two names below and those of `lora_input_names`.
    Output: logits [sampled, 1, vocabulary].
    """
    model = _LlamaBuilder(card, weights).build()
    paged_attention_transformation(model)
    return model


class _LlamaBuilder:
    """Builds the stateful form that OpenVINO's paged-attention transformation recognises."""

    def __init__(self, card: ModelCard, weights: Weights) -> None:
        self._card = card
        self._weights = weights
        self._parameters: list[Any] = []
        self._sinks: list[Any] = []
        self._ids = self._parameter("input_ids", [-1, -1], np.int64)
        positions = self._parameter("position_ids", [-1, -1], np.int64)
        attended = self._parameter("attention_mask", [-1, -1], np.int64)
        self._beam_index = self._parameter("beam_idx", [-1], np.int32)
        self._sampled = self._parameter(SAMPLED_INDICES, [-1], np.int64)
        self._lora_mask = self._parameter(LORA_MASK, [-1, 1, -1], np.float32)
        self._batch = op.gather(op.shape_of(self._ids), _integers([0]), _integers(0))
        blocked = op.subtract(op.convert(attended, "f32"), _floats(1.0))
        self._attention_bias = op.unsqueeze(op.multiply(blocked, _floats(_MASKED)), _integers([1, 2]))
        self._cosines, self._sines = self._rotary_tables(positions)

    def build(self) -> ov.Model:
        embedding = self._shared("model.embed_tokens.weight")
        head = self._shared("lm_head.weight") if "lm_head.weight" in self._weights else embedding
        hidden = op.gather(embedding, self._ids, _integers(0))
        for layer in range(self._card.layers):
            hidden = op.add(hidden, self._attention(layer, hidden))
            hidden = op.add(hidden, self._mlp(layer, hidden))
        hidden = self._norm(op.gather(hidden, self._sampled, _integers(0)), "model.norm.weight")
        logits = op.matmul(hidden, head, False, True)
        logits.output(0).set_names({LOGITS})
        return ov.Model([op.result(logits)], self._sinks, self._parameters, self._card.name)

    def _attention(self, layer: int, hidden: Any) -> Any:
        card = self._card
        normed = self._norm(hidden, f"model.layers.{layer}.input_layernorm.weight")
        query = self._heads(self._projection(layer, LoraModule.ATTN_Q, normed), card.attention_heads)
        key = self._heads(self._projection(layer, LoraModule.ATTN_K, normed), card.key_value_heads)
        value = self._heads(self._projection(layer, LoraModule.ATTN_V, normed), card.key_value_heads)
        mixed = op.scaled_dot_product_attention(
            self._rotate(query),
            self._cached(self._rotate(key), f"past_key_values.{layer}.key"),
            self._cached(value, f"past_key_values.{layer}.value"),
            self._attention_bias,
            causal=False,
        )
        joined = op.reshape(op.transpose(mixed, _integers([0, 2, 1, 3])), _integers([0, 0, -1]), True)
        return self._projection(layer, LoraModule.ATTN_DENSE, joined)

    def _mlp(self, layer: int, hidden: Any) -> Any:
        normed = self._norm(hidden, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate = op.swish(self._projection(layer, LoraModule.MLP_H_TO_4H, normed))
        up = self._projection(layer, LoraModule.MLP_GATE, normed)
        return self._projection(layer, LoraModule.MLP_4H_TO_H, op.multiply(gate, up))

    def _projection(self, layer: int, module: LoraModule, x: Any) -> Any:
        in_size, out_size = module_sizes(self._card)[module]
        weight = self._shared(f"model.layers.{layer}.{_PROJECTIONS[module]}.weight")
        name_a, name_b = lora_input_names(layer, module)
        a = self._parameter(name_a, [-1, in_size], np.float32)
        b = self._parameter(name_b, [-1, out_size], np.float32)
        own_rows = op.multiply(op.matmul(x, a, False, True), self._lora_mask)
        return op.add(op.matmul(x, weight, False, True), op.matmul(own_rows, b, False, False))

    def _norm(self, x: Any, weight: str) -> Any:
        mean_square = op.reduce_mean(op.multiply(x, x), _integers([-1]), True)
        scale = op.sqrt(op.add(mean_square, _floats(self._card.rms_norm_epsilon)))
        return op.multiply(op.divide(x, scale), self._shared(weight))

    def _heads(self, x: Any, heads: int) -> Any:
        split = op.reshape(x, _integers([0, 0, heads, self._card.head_size]), True)
        return op.transpose(split, _integers([0, 2, 1, 3]))

    def _rotary_tables(self, positions: Any) -> tuple[Any, Any]:
        """Cosines and sines [batch, 1, tokens, head_size] (Su et al. 2021, in Hugging Face's layout)."""
        size = self._card.head_size
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        frequencies = (1.0 / self._card.rope_theta**exponents).astype(np.float32).reshape(1, 1, -1)
        angles = op.multiply(
            op.unsqueeze(op.convert(positions, "f32"), _integers(-1)), op.constant(frequencies)
        )
        both = op.concat([angles, angles], -1)
        return op.unsqueeze(op.cos(both), _integers(1)), op.unsqueeze(op.sin(both), _integers(1))

    def _rotate(self, x: Any) -> Any:
        half = self._card.head_size // 2
        halves = op.variadic_split(x, _integers(-1), _integers([half, half]))
        turned = op.concat([op.multiply(halves.output(1), _floats(-1.0)), halves.output(0)], -1)
        return op.add(op.multiply(x, self._cosines), op.multiply(turned, self._sines))

    def _cached(self, x: Any, name: str) -> Any:
        """Append to a state variable and repeat key-value heads for the query heads that share them."""
        heads, size = self._card.key_value_heads, self._card.head_size
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, heads, -1, size])
        info.data_type = ov.Type.f32
        info.variable_id = name
        variable = Variable(info)
        empty_shape = op.concat([self._batch, _integers([heads]), _integers([0]), _integers([size])], 0)
        past = op.read_value(op.broadcast(_floats(0.0), empty_shape), variable)
        whole = op.concat([op.gather(past, self._beam_index, _integers(0), 0), x], 2)
        self._sinks.append(op.assign(whole, variable))
        repeats = _integers([self._card.attention_heads // heads])
        shape = op.shape_of(whole)
        outer = op.gather(shape, _integers([0, 1]), _integers(0))
        inner = op.gather(shape, _integers([2, 3]), _integers(0))
        repeated = op.broadcast(
            op.unsqueeze(whole, _integers(2)),
            op.concat([outer, repeats, inner], 0),
            broadcast_spec="BIDIRECTIONAL",
        )
        return op.reshape(repeated, _integers([0, self._card.attention_heads, -1, size]), True)

    def _parameter(self, name: str, shape: list[int], dtype: npt.DTypeLike) -> Any:
        parameter = op.parameter(shape, dtype, name=name)
        parameter.output(0).set_names({name})
        self._parameters.append(parameter)
        return parameter

    def _shared(self, name: str) -> Any:
        return op.constant(self._weights[name], shared_memory=True)


def _integers(values: list[int] | int) -> Any:
    return op.constant(np.array(values, np.int64))


def _floats(value: float) -> Any:
    return op.constant(np.array(value, np.float32))
