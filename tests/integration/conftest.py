"""What integration tests share: the prepared model, made once a checkout, and a server of the CPU twin."""

from __future__ import annotations

import pytest

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
