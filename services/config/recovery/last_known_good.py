"""Keeps etcd's live values in a sealed and signed file, and starts from it while etcd does not answer.

The values are kept as etcd has them: sensitive fields are already sealed under their tenant's key.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from services.common.clock import Clock
from services.common.known_good.attestation import require_signed, signed_parts
from services.common.known_good.generations import Generations
from services.common.known_good.sealed_file import Expected, Header, Kind, KnownGoodError
from services.common.known_good.signed_state import Statement, StatementSigner
from services.common.known_good.state_digest import digest_of
from services.common.known_good.writer import Content, KnownGoodWriter
from services.config.discovery.start_gate import StartGate
from services.config.etcd.client import CALL_SECONDS
from services.config.etcd.follower import Follower, KeyChange
from services.config.etcd.store import Stored
from services.config.recovery.etcd_identity import EtcdIdentity
from services.config.state.current_state import CurrentState
from services.config.state.sealing import SealError

_log = logging.getLogger(__name__)

NAME = "known-good"
OWNER = "config"
START_SECONDS = 1.0
"""How long a start waits for etcd's first answer."""
PAGE_SECONDS = CALL_SECONDS + 0.5
"""How long it waits from one answer to the next; a large list takes many."""
LIST_SECONDS = 10.0
"""How long it waits for the whole list."""
_SETTLE_SECONDS_PER_ITEM = 1e-4
_REVISION_BYTES = 8
_PARTS = 3
"""The parts of an item: key, revision, value."""


class LastKnownGood(Follower):
    """Writes what the watch shows to the file, and restores the file where etcd sends no list.

    It follows the watch after the state: only what is in force is written. A list from etcd always replaces what a
    file held.
    """

    def __init__(
        self,
        current: CurrentState,
        identity: EtcdIdentity,
        etcd_answers: Callable[[], int],
        *,
        state_dir: Path,
        key: bytes,
        signer: StatementSigner,
        start_gate: StartGate,
        max_age_seconds: float,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._current = current
        self._identity = identity
        self._etcd_answers = etcd_answers
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._files = Generations(state_dir, NAME, key)
        self._signer = signer
        self._start_gate = start_gate
        self._items: dict[str, Stored] = {}
        self._listed_anew = False
        """Whether a whole list still has to be written."""
        self._writer = KnownGoodWriter(self._files, self._content, registry, settle=self._settle)
        from_file = Gauge(
            "tenantry_config_from_file",
            "1 while the config in force comes from the last known good file.",
            registry=registry,
        )
        from_file.set_function(lambda: current.listed.is_set() and not current.live.is_set())

    async def start_without_etcd(self) -> None:
        """Put the config of the file in force if etcd is not listed in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIST_SECONDS):
                await self._listed_or_silent()
        cluster = self._identity.cluster  # proven: file-of-this-cluster
        expected = Expected(Kind.CONFIG, OWNER, self._max_age_seconds, cluster)
        candidates = self._files.readable(expected, self._clock.wall_seconds())
        while not self._current.live.is_set():
            known = await asyncio.to_thread(next, candidates, None)
            if self._current.live.is_set():
                return
            if known is None:
                _log.warning("waiting for etcd: there is no last known good config to start from")
                return
            age_seconds = known.header.age_seconds(self._clock.wall_seconds())
            try:
                known = await asyncio.to_thread(require_signed, known, self._signer.public_key, _signed_items)
                if self._current.live.is_set():
                    return
                self._current.restore(_items(known.parts), known.header.revision, age_seconds)
            except KnownGoodError as error:
                _log.error("LAST KNOWN GOOD REFUSED: %s", error)
                continue
            except (SealError, ValueError) as error:
                _log.error("LAST KNOWN GOOD REFUSED: %s: %s", known.path, type(error).__name__)
                continue
            self._identity.restored(known.header.cluster_id, known.header.revision)
            _log.error(
                "ALARM: etcd sends no config; serving revision %d, which was current %.0f s ago, from %s",
                known.header.revision,
                age_seconds,
                known.path,
            )
            return

    async def run(self) -> None:
        """Start without etcd if necessary, then keep the file current for as long as the process lives."""
        await self.start_without_etcd()
        await self._writer.run()

    async def finish(self, within_seconds: float) -> None:
        """Write what is not written yet, on a clean stop."""
        await self._writer.finish(within_seconds)

    def replace(self, items: Mapping[str, Stored], revision: int) -> None:  # noqa: ARG002 - a follower's signature
        """Write a whole list; it replaces what a file held, be that newer or of another cluster."""
        self._items, self._listed_anew = dict(items), True
        self._writer.changed()

    def apply(self, changes: Sequence[KeyChange], revision: int) -> None:  # noqa: ARG002 - a follower's signature
        """Write changes beside what was listed."""
        for change in changes:
            if change.stored is None:
                self._items.pop(change.key, None)
            else:
                self._items[change.key] = change.stored
        if changes:
            self._writer.changed()

    async def _listed_or_silent(self) -> None:
        answers = -1
        while (newest := self._etcd_answers()) > answers:  # proven: answers-are-life
            answers = newest
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAGE_SECONDS if answers else START_SECONDS):
                    await self._current.live.wait()
                    return

    async def _settle(self) -> None:
        items = len(self._items)
        # A list waits for starting routers. A change does not: a router that hangs must not delay it.
        if self._listed_anew:  # proven: only-lists-wait
            await self._start_gate.wait_until_started(items)
        else:
            await asyncio.sleep(items * _SETTLE_SECONDS_PER_ITEM)

    def _content(self) -> Content | None:
        if not self._current.live.is_set() or not self._current.state.revision:
            return None
        current_ms = int(1000 * self._clock.wall_seconds()) - self._current.silence_ms
        header = Header(Kind.CONFIG, self._identity.cluster, OWNER, self._current.state.revision, current_ms)
        items, cluster, self._listed_anew = dict(self._items), self._identity.cluster, False
        # The cluster id is recorded first, so that a file of another cluster is refused at the next start.
        return Content(header, lambda: self._signed(header, items), lambda: self._identity.record(cluster))

    def _signed(self, header: Header, items: Mapping[str, Stored]) -> list[bytes]:
        parts = _parts(items)
        digest = digest_of(_signed_items(parts))
        statement = Statement(header.cluster_id, header.written_unix_ms, header.revision, digest)
        return signed_parts(self._signer.sign(statement), parts)


def _parts(items: Mapping[str, Stored]) -> list[bytes]:
    triples = (
        (key.encode(), stored.mod_revision.to_bytes(_REVISION_BYTES, "big"), stored.value)
        for key, stored in items.items()
    )
    return list(itertools.chain.from_iterable(triples))


def _triples(parts: Sequence[bytes]) -> Iterable[tuple[bytes, bytes, bytes]]:
    return zip(parts[::_PARTS], parts[1::_PARTS], parts[2::_PARTS], strict=True)


def _signed_items(parts: Sequence[bytes]) -> Iterable[tuple[str, bytes]]:
    return ((key.decode(), revision + value) for key, revision, value in _triples(parts))


def _items(parts: Sequence[bytes]) -> dict[str, Stored]:
    return {
        key.decode(): Stored(value, int.from_bytes(revision, "big"))
        for key, revision, value in _triples(parts)
    }
