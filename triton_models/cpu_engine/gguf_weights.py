"""Reads a llama-architecture GGUF file into f32 weights, tokeniser and Hugging Face configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Weights = dict[str, npt.NDArray[np.float32]]

_CONTROL_TOKEN = 3  # `llama_token_type` of GGUF
_USER_DEFINED_TOKEN = 4

_TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_PER_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


class UnsupportedModelError(Exception):
    """The GGUF file is not of the one kind this reader understands."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A GGUF file's content in Hugging Face's terms."""

    config: dict[str, Any]
    """Content of `config.json` of a `LlamaForCausalLM`."""
    tokenizer: Tokenizer
    tokenizer_config: dict[str, Any]
    """Content of `tokenizer_config.json`, without the chat template."""
    chat_template: str
    """Jinja source."""
    weights: Weights
    """`model.layers.N.self_attn.q_proj.weight` and so on, each [out, in] or [size], C-contiguous f32."""


def read_gguf(path: Path, progress: Callable[[int, int], None] | None = None) -> GgufModel:
    """Dequantise a GGUF file.

    Args:
        path: The file.
        progress: Called with (tensors done, tensors in all).

    Raises:
        UnsupportedModelError: another architecture, tokeniser or tensor than llama with a `smollm` byte-level
            BPE.
    """
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    for field, supported in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
    ):
        if fields.get(field) != supported:
            raise UnsupportedModelError(f"{field} is {fields.get(field)!r}, supported is {supported!r}")
    heads, key_value_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    weights: Weights = {}
    for done, tensor in enumerate(reader.tensors):
        if progress:
            progress(done, len(reader.tensors))
        shape = tuple(reversed(tensor.shape.tolist()))  # GGUF lists the innermost dimension first
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        if ".attn_q." in tensor.name:
            array = undo_rope_permutation(array, heads)
        elif ".attn_k." in tensor.name:
            array = undo_rope_permutation(array, key_value_heads)
        weights[_hugging_face_name(tensor.name)] = np.ascontiguousarray(array)
    if progress:
        progress(len(reader.tensors), len(reader.tensors))
    return GgufModel(
        config=_config(fields, tied="lm_head.weight" not in weights),
        tokenizer=_tokenizer(fields),
        tokenizer_config=_tokenizer_config(fields),
        chat_template=fields["tokenizer.chat_template"],
        weights=weights,
    )


def undo_rope_permutation(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Bring the rows of a Q or K projection back into Hugging Face's order.

    llama.cpp stores the two halves of each head interleaved: its rotary embedding rotates neighbouring pairs,
    where Hugging Face's rotates element i with element i + head_size / 2.

    Args:
        weight: [heads * head_size, in].
        heads: Q's or K's own number of heads.
    """
    rows, columns = weight.shape
    half = rows // heads // 2
    return weight.reshape(heads, half, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _hugging_face_name(gguf_name: str) -> str:
    if gguf_name in _TOP_LEVEL:
        return _TOP_LEVEL[gguf_name]
    match gguf_name.split("."):
        case ["blk", layer, kind, "weight"] if kind in _PER_LAYER:
            return f"model.layers.{layer}.{_PER_LAYER[kind]}.weight"
    raise UnsupportedModelError(f"unknown tensor {gguf_name}")


def _config(fields: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": fields["llama.rope.freq_base"],
        "vocab_size": fields["llama.vocab_size"],
        "max_position_embeddings": fields["llama.context_length"],
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    # What llama.cpp calls `smollm`: each digit alone, then GPT-2's byte-level rule.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, fields["tokenizer.ggml.token_type"], strict=True))
    for kind, add in (
        (_CONTROL_TOKEN, tokenizer.add_special_tokens),
        (_USER_DEFINED_TOKEN, tokenizer.add_tokens),
    ):
        special = kind == _CONTROL_TOKEN
        add([AddedToken(token, special=special, normalized=False) for token, own in kinds if own == kind])
    return tokenizer


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": fields["llama.context_length"],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
