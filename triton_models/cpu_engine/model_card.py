"""Describes a prepared model, so that a reader need not open its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Geometry, special tokens and digests of a llama-architecture model."""

    name: str
    hidden_size: int
    attention_heads: int
    key_value_heads: int
    head_size: int
    mlp_width: int
    layers: int
    vocabulary_size: int
    context_tokens: int
    rope_theta: float
    rms_norm_epsilon: float
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    weights_sha256: str
    """Digest of the f32 safetensors file; with `name` it identifies the base model of an adapter."""
    tokenizer_sha256: str
    chat_template_sha256: str

    def write(self, path: Path) -> None:
        """Write the card as JSON with sorted keys."""
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> ModelCard:
        """Read a card written by `write`.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a card of this version.
        """
        fields = json.loads(path.read_text(encoding="utf-8"))
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"{path} is not a model card of this version") from error
