from __future__ import annotations

import asyncio
import os
import signal
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.artifacts import ArtifactError, DirectoryArtifactStore
from services.common.backoff import Backoff
from services.common.lifecycle import Lifetime, TaskDiedError


@given(base=st.floats(0.001, 1), cap=st.floats(1, 60), failures=st.integers(1, 80))
def test_a_delay_never_exceeds_the_cap_or_its_own_ceiling(base, cap, failures):
    backoff = Backoff(base, cap)
    for failure in range(failures):
        assert 0 <= backoff.next_delay_seconds() <= min(cap, base * 2.0 ** min(failure, 30))
    backoff.reset()
    assert backoff.next_delay_seconds() <= base


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


async def test_the_death_of_an_owned_task_ends_the_process_and_is_named():
    async def die() -> None:
        raise RuntimeError

    async with Lifetime() as lifetime:
        forever = lifetime.own(asyncio.Event().wait(), "forever")
        lifetime.own(die(), "watch")
        with pytest.raises(TaskDiedError, match="watch ended: RuntimeError"):
            await lifetime.wait()
    assert forever.cancelled()


async def test_sigterm_ends_the_wait():
    async with Lifetime() as lifetime:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(lifetime.wait(), 5)
