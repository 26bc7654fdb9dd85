from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli.main import app
from tests.fakes.cli_listeners import FakeMesh, fake_mesh


@dataclass
class Shell:
    """Runs `tenantry` in process, with an environment of its own."""

    environment: dict[str, str | None]

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, env=self.environment)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def mesh(tmp_path: Path):
    with fake_mesh(tmp_path / "state") as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(
        {
            "TENANTRY_STATE_DIR": str(tmp_path / "state"),
            "COLUMNS": "100",
            **dict.fromkeys(
                (
                    "TENANTRY_ADDRESS",
                    "TENANTRY_OPERATIONS_ADDRESS",
                    "TENANTRY_CA_FILE",
                    "TENANTRY_KEY_FILE",
                    "TENANTRY_OPERATOR_KEY_FILE",
                )
            ),
        }
    )


@pytest.fixture
def admin(mesh: FakeMesh):
    return mesh.admin


@pytest.fixture
def inference(mesh: FakeMesh):
    return mesh.inference
