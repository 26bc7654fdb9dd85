"""Signs what routers hold, so that they can keep it on disk and prove later which config service sent it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.common.clock import Clock
from services.common.known_good.generations import write_record
from services.common.known_good.signed_state import Statement, StatementSigner
from services.common.known_good.state_digest import StateDigest
from services.config.discovery.messages import owner_of, resource_of
from services.config.discovery.start_gate import StartGate
from services.config.state.config_state import ConfigState
from services.config.state.current_state import CurrentState

SIGNER_FILE = "config-signer"
_PAUSE_SECONDS = 1.0
_SAME_SECONDS = 1.0


def open_signer(seed: bytes, state_dir: Path) -> StatementSigner:
    """Make the signer, and publish its public key as the file `config-signer`, for routers."""
    signer = StatementSigner(seed)
    write_record(state_dir / SIGNER_FILE, signer.public_key.hex())
    return signer


class DigestedState:
    """A state, with the digest of the resources that routers are sent."""

    def __init__(self, state: ConfigState) -> None:
        """Digest a whole state. It takes seconds for a large one: call it in a thread."""
        self.state = state
        self._digest = StateDigest()
        self._take(state.records)

    @property
    def sha256(self) -> str:
        """The digest, lowercase hex."""
        return self._digest.hexdigest()

    def advance(self, after: ConfigState, touched: Iterable[str]) -> None:
        """Advance to a later state, in which at most the touched keys differ."""
        before, self.state, keys = self.state, after, set(touched)
        if any(
            key.startswith("tenants/") and (key in before.records) != (key in after.records) for key in keys
        ):
            # What belongs to a tenant is sent only while the tenant exists.
            moved = set(before.uid_by_tenant_id.values()) ^ set(after.uid_by_tenant_id.values())
            keys |= {key for key, record in after.records.items() if owner_of(record) in moved}
        self._take(keys)

    def _take(self, keys: Iterable[str]) -> None:
        for key in keys:
            record = self.state.records.get(key)
            resource = resource_of(key, record, self.state) if record is not None else None
            if resource is None:
                self._digest.remove(key)  # proven: digest-forgets-removed
            else:
                self._digest.put(key, resource.SerializeToString(deterministic=True))


class SnapshotStatements:
    """Makes statements about the newest state; run `run` as a task."""

    def __init__(
        self,
        current: CurrentState,
        signer: StatementSigner,
        cluster_id: Callable[[], int],
        clock: Clock,
        start_gate: StartGate,
    ) -> None:
        self._current = current
        self._signer = signer
        self._cluster_id = cluster_id
        self._clock = clock
        self._start_gate = start_gate
        self._digested: DigestedState | None = None
        self._wanted = asyncio.Event()
        self._last: tuple[ConfigState, float, pb.SnapshotStatement] | None = None
        """The newest statement and its time: many routers are sent the same snapshot at once."""

    async def run(self) -> NoReturn:
        """Digest whole states when needed: at the start, and after etcd's history ended."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            records = len(self._current.state.records)
            await self._start_gate.wait_until_started(records)  # proven: digest-waits-for-routers
            self._digested = await asyncio.to_thread(DigestedState, self._current.state)
            # Streams asked again meanwhile; this digest answers them too.
            self._wanted.clear()  # proven: one-digest-for-all-askers
            await asyncio.sleep(_PAUSE_SECONDS)

    def of(self, state: ConfigState) -> pb.SnapshotStatement | None:
        """A statement about a state that a router was sent.

        None while the state is not digested yet, comes from a file, or is not the newest one: ask again later.
        """
        newest = self._current.state
        if not self._current.live.is_set() or not newest.revision or state.records is not newest.records:
            return None
        now = self._clock.monotonic_seconds()
        if self._last is not None and self._last[0] is state and now - self._last[1] < _SAME_SECONDS:
            return self._last[2]
        digested = self._digested
        if digested is not None and digested.state.records is not state.records:
            touched = self._current.touched(digested.state, newest)
            if touched is None:
                digested = None
            else:
                digested.advance(newest, touched)
        if digested is None:
            self._wanted.set()
            return None
        current_ms = int(1000 * self._clock.wall_seconds()) - self._current.silence_ms
        signed = self._signer.sign(
            Statement(f"{self._cluster_id():x}", current_ms, state.revision, digested.sha256)
        )
        message = pb.SnapshotStatement(
            statement=signed.text, signature=signed.signature, signer_public_key=signed.signer
        )
        self._last = (state, now, message)
        return message
