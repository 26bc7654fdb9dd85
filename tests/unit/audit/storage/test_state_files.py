"""Files of a version this service does not know are refused, each by its name."""

from __future__ import annotations

import json

import pytest

from services.audit.logs.folded_state import FoldedState
from services.audit.storage.state_files import StateFileError, read_state_file
from tests.unit.audit.audit_state import new_entry, open_store


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"{}", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_a_state_file_is_refused(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(StateFileError, match=r"x\.json is damaged"):
        read_state_file(tmp_path / "x.json")


@pytest.mark.parametrize("version", [0, 2, "1", True, None, 1.5])
@pytest.mark.parametrize("name", ["wal.json", "state.json"])
def test_a_state_of_another_version_is_refused(tmp_path, name, version):
    store = open_store(tmp_path)
    store.commit([new_entry("a")], [])
    store.close()
    (path,) = tmp_path.rglob(name)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": version}))
    with pytest.raises(StateFileError, match=rf"{name} has version"):
        FoldedState.read(path) if name == "state.json" else open_store(tmp_path)
