"""What integration tests share: the prepared model, made once a checkout, and a server of the CPU twin."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio

from services.local.layout import open_layout
from services.local.mesh import LocalMesh
from tests.integration.running_mesh import running
from tests.integration.triton_process import running_twin
from triton_models.cpu_engine.preparation import prepare


@pytest.fixture(scope="session")
def prepared_model(pytestconfig):
    """The twin's model; kept in pytest's own cache directory, verified by digest each time."""
    return prepare(pytestconfig.cache.mkdir("models"))


@pytest.fixture(scope="module")
def twin(prepared_model, tmp_path_factory):
    """A tritonserver with the twin, shared by a module's tests."""
    with running_twin(prepared_model, tmp_path_factory.mktemp("twin")) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mesh(prepared_model, pytestconfig):
    """The whole mesh, started once; a test that stops a part of it starts it again."""
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="mesh-"))
    try:
        with open_layout(folder / "state", pytestconfig.cache.mkdir("models")) as layout:
            async with running(LocalMesh(layout)) as mesh:
                yield mesh
    finally:
        shutil.rmtree(folder, ignore_errors=True)
