from __future__ import annotations

import stat

import pytest

from services.common.artifacts import ArtifactError, DirectoryArtifactStore


def test_artifacts_come_back_and_damage_is_noticed(tmp_path):
    store = DirectoryArtifactStore(tmp_path / "a")
    digest = store.put(b"tokens")
    assert store.put(b"tokens") == digest
    assert store.read(digest) == b"tokens"
    path = tmp_path / "a" / digest[:2] / digest
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"tokenz")
    with pytest.raises(ArtifactError, match="damaged"):
        store.read(digest)


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64])
def test_missing_and_malformed_digests(tmp_path, name):
    with pytest.raises(ArtifactError):
        DirectoryArtifactStore(tmp_path).read(name)
