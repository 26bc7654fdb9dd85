"""The two servers that contract suites about Triton run over."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.fakes.scripted_triton.scenarios import ADAPTER_SLOTS
from tests.fakes.scripted_triton.script import Script
from tests.fakes.scripted_triton.server import ScriptedTriton
from tests.integration.triton_process import running_twin
from triton_models.cpu_engine.preparation import prepare


@dataclass
class Subject:
    """A server under the contract."""

    target: str
    scripted: ScriptedTriton | None

    def play(self, script: Script) -> None:
        """Have the scripted server say what the real one's model says of itself."""
        if self.scripted is not None:
            self.scripted.script = script


@pytest.fixture(scope="session")
def real_triton(pytestconfig, tmp_path_factory):
    """One tritonserver with the twin for every contract test."""
    model = prepare(pytestconfig.cache.mkdir("models"))
    folder = tmp_path_factory.mktemp("twin")
    with running_twin(model, folder, {"lora_cache_slots": ADAPTER_SLOTS}) as server:
        yield server


@pytest.fixture(params=["scripted", pytest.param("real", marks=pytest.mark.integration)])
async def triton(request):
    """The scripted server, then the real one."""
    if request.param == "real":
        yield Subject(request.getfixturevalue("real_triton").target, None)
        return
    async with ScriptedTriton(adapter_slots=ADAPTER_SLOTS) as scripted:
        yield Subject(scripted.target, scripted)
