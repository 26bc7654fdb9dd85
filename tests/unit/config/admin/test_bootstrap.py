"""A first operator's key is made whenever no other key opens the admin service."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from services.config.admin import bootstrap
from services.config.admin.bootstrap import load_issuer
from services.config.etcd import keys as etcd_keys
from services.config.state.config_state import ConfigStateBuilder
from services.config.state.current_state import CurrentState
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import replaced


class Start:
    """A config service that starts over what is in etcd and in a state directory."""

    def __init__(self, plane, state_dir, module=bootstrap):
        self.plane, self.state_dir = plane, state_dir
        self.issuer = load_issuer(state_dir)
        self.current = CurrentState(ConfigStateBuilder(plane.keys), plane.clock)
        plane.store.follow(etcd_keys.LIVE, self.current)
        self.first = module.FirstOperator(state_dir, self.issuer, self.current, plane.intents, plane.clock)

    async def makes_a_key(self):
        """Whether the start makes a key."""
        before = set(self.current.state.records)
        async with asyncio.timeout(5):
            await self.first.ensure()
        return bool(set(self.current.state.records) - before)


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "service"


@pytest.fixture
def plane(tmp_path):
    return ConfigPlane(tmp_path)


async def test_the_first_start_makes_a_key_and_the_next_ones_none(plane, state_dir):
    assert await Start(plane, state_dir).makes_a_key()
    assert not await Start(plane, state_dir).makes_a_key()


async def rotated_and_started_again_before_the_key_was_recorded(plane, state_dir, module):
    await Start(plane, state_dir).makes_a_key()
    (state_dir / "tokens.pem").unlink()
    Start(plane, state_dir, module)  # it makes a signing key, and dies before it makes an operator's key
    return await Start(plane, state_dir, module).makes_a_key()


async def test_a_rotation_whose_first_start_failed_locks_nobody_out(plane, state_dir):
    assert await rotated_and_started_again_before_the_key_was_recorded(plane, state_dir, bootstrap)


async def test_that_test_notices_a_key_that_counts_under_any_signing_key(plane, state_dir):
    def any_key(state, _issuer, _clock):
        return any(state.under("credentials/"))

    trusting = replaced(bootstrap, "has_platform_admin", any_key)
    assert not await rotated_and_started_again_before_the_key_was_recorded(plane, state_dir, trusting)


async def test_a_service_that_shares_the_signing_key_makes_no_key_of_its_own(plane, state_dir, tmp_path):
    await Start(plane, state_dir).makes_a_key()
    (tmp_path / "other").mkdir()
    shutil.copy(state_dir / "tokens.pem", tmp_path / "other")
    assert not await Start(plane, tmp_path / "other").makes_a_key()
