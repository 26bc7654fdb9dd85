"""A model small enough to think about."""

from __future__ import annotations

from triton_models.cpu_engine.model_card import ModelCard


def tiny_card() -> ModelCard:
    """Two layers, four query heads that share two key-value heads, no two sizes alike."""
    return ModelCard(
        name="tiny",
        hidden_size=8,
        attention_heads=4,
        key_value_heads=2,
        head_size=3,
        mlp_width=16,
        layers=2,
        vocabulary_size=50,
        context_tokens=64,
        rope_theta=10_000.0,
        rms_norm_epsilon=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        weights_sha256="0" * 64,
        tokenizer_sha256="1" * 64,
        chat_template_sha256="2" * 64,
    )
