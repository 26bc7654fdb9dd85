"""Keeps the config in force in a sealed file, and starts from it while the config service sends none.

The file carries the config service's signature, so that access to the folder and the file's key is not enough to make
a config. Without a published public key the router trusts the first that it receives, and keeps it beside the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Gauge
from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.common.clock import Clock
from services.common.known_good.attestation import require_signed, signed_parts
from services.common.known_good.generations import Generations, load_key, read_record, write_record
from services.common.known_good.sealed_file import Expected, Header, Kind, KnownGood, KnownGoodError
from services.common.known_good.signed_state import NotSignedError, SignedStatement, Statement, verified
from services.common.known_good.state_digest import digest_of
from services.common.known_good.writer import Content, KnownGoodWriter
from services.common.rpc.interceptors import where
from services.router.settings import RouterSettings
from services.router.snapshot.compiler import Compiled, LoadTextModel, SnapshotRefusedError, compile_snapshot
from services.router.snapshot.config_state import ConfigState

_log = logging.getLogger(__name__)

NAME = "known-good"
START_SECONDS = 0.5
"""How long a starting router waits for the config service to begin sending a config."""
ARRIVAL_SECONDS = 10.0
"""How long a large config may take to arrive and to be compiled before the file is used after all."""
SETTLE_SECONDS = 1.0
"""How long after a change the file is written, so that a config that kills its router is not kept."""
_CLUSTER_FILE, _SIGNER_FILE = "etcd-cluster-id", "config-signer"

Resources = Mapping[str, pb.Resource]
StartFrom = Callable[[Resources, Compiled], None]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A config that was in force, with the config service's statement about it."""

    statement: Statement
    signed: SignedStatement
    resources: Resources


class LastKnownGood:
    """The file of one router; a config that is sent wins over it, unless that is older and stale too."""

    def __init__(
        self,
        files: Generations,
        folder: Path,
        signer: bytes,
        state: ConfigState,
        load_text_model: LoadTextModel,
        *,
        router: str,
        max_age_seconds: float,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._files = files
        self._state = state
        self._load_text_model = load_text_model
        self._router = router
        self._max_age_seconds = max_age_seconds  # proven: known-good-age
        self._clock = clock
        self._cluster_path, self._signer_path = folder / _CLUSTER_FILE, folder / _SIGNER_FILE
        self._signer = signer or bytes.fromhex(read_record(self._signer_path))
        self._cluster = read_record(self._cluster_path)  # proven: known-good-cluster
        self._held: tuple[int, Resources] | None = None
        self._stated: tuple[Statement, SignedStatement] | None = None
        self._kept: _Kept | None = None
        self._writer = KnownGoodWriter(
            files, self._content, registry, settle=lambda: asyncio.sleep(SETTLE_SECONDS)
        )
        from_file = Gauge(
            "tenantry_config_from_file",
            "1 while the config in force is out of the last known good file.",
            registry=registry,
        )
        from_file.set_function(lambda: state.from_file)

    def hold(self, revision: int, resources: Resources) -> None:
        """Record that a config that was sent is in force; its resources never change from here on."""
        self._held = (revision, resources)
        self._keep()

    def attest(self, message: pb.SnapshotStatement) -> None:
        """Record a signed statement about a snapshot that is in force, or that may come into force."""
        signed = SignedStatement(message.statement, message.signature, message.signer_public_key)
        try:
            statement = verified(signed, self._signer or signed.signer)
        except NotSignedError as error:
            _log.error("ALARM: a statement about config %s; it is not kept", error)
            return
        self._signer = signed.signer
        self._stated = (statement, signed)
        self._keep()

    def _keep(self) -> None:
        """Keep the config in force, once there is a statement about it."""
        if self._held is None or self._stated is None or self._held[0] != self._stated[0].revision:
            return
        statement, signed = self._stated
        is_news = self._kept is None or self._kept.resources is not self._held[1]
        self._kept = _Kept(statement, signed, self._held[1])
        if is_news:
            self._writer.changed()

    async def run(self, start_from: StartFrom, at_rest: asyncio.Event) -> None:
        """Start, then keep the file close to the config in force, for as long as the process lives."""
        await self.start_without_config(start_from, at_rest)
        await self._writer.run()

    async def finish(self, within_seconds: float) -> None:
        """On a clean stop, write the newest config if it is not written yet."""
        await self._writer.finish(within_seconds)

    async def start_without_config(self, start_from: StartFrom, at_rest: asyncio.Event) -> None:
        """Put the file's config in force if the config service sends none in time.

        Args:
            start_from: puts it in force.
            at_rest: clear while a config that was sent is on its way into force.
        """
        await asyncio.sleep(START_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ARRIVAL_SECONDS):
                await at_rest.wait()  # proven: arriving-config-comes-first
        if self._has_config():
            return
        candidates = self._compiled()
        found = await asyncio.to_thread(next, candidates, None)
        if self._has_config():
            return
        if found is None:
            _log.info("waiting for the first config: there is no last known good one to start from")
            return
        known, resources, compiled = found
        start_from(resources, compiled)
        # A config that began to arrive meanwhile is not waited for: it replaces this one when it is whole.
        _log.error(
            "ALARM: the config service sends no config; serving revision %d, which was current %.0f s ago, from %s",
            known.header.revision,
            known.header.age_seconds(self._clock.wall_seconds()),
            known.path,
        )

    def _has_config(self) -> bool:
        return self._state.revision > 0

    def _compiled(self) -> Iterator[tuple[KnownGood, Resources, Compiled]]:
        expected = Expected(Kind.ROUTER, self._router, self._max_age_seconds, self._cluster)
        for sealed in self._files.readable(expected, self._clock.wall_seconds()):
            try:
                known = require_signed(sealed, self._signer, _signed_items)  # proven: known-good-signature
                found = [pb.Resource.FromString(part) for part in known.parts]
                resources = {resource.key: resource for resource in found}
                compiled = compile_snapshot(known.header.revision, resources, self._load_text_model)
            except KnownGoodError as error:
                _log.error("LAST KNOWN GOOD REFUSED: %s", error)
                continue
            except (DecodeError, SnapshotRefusedError) as error:
                _log.error("LAST KNOWN GOOD REFUSED: %s: %s", sealed.path, error)
                continue
            except Exception as error:  # noqa: BLE001 - a file must not keep a router from its live config
                _log.error(
                    "LAST KNOWN GOOD REFUSED: %s: %s at %s", sealed.path, type(error).__name__, where(error)
                )
                continue
            yield known, resources, compiled

    def _content(self) -> Content | None:
        if self._kept is None:
            return None
        kept, statement = self._kept, self._kept.statement
        header = Header(
            Kind.ROUTER, statement.cluster_id, self._router, statement.revision, statement.current_unix_ms
        )
        return Content(header, lambda: _parts(kept), lambda: self._record(kept))

    def _record(self, kept: _Kept) -> None:
        """Before the file is written, record which signer and which cluster the next start expects."""
        write_record(self._signer_path, kept.signed.signer.hex())
        write_record(self._cluster_path, kept.statement.cluster_id)


def _parts(kept: _Kept) -> list[bytes]:
    items = {key: resource.SerializeToString(deterministic=True) for key, resource in kept.resources.items()}
    if digest_of(items.items()) != kept.statement.state_sha256:
        raise ValueError("the config in force is not the one the config service signed")
    return signed_parts(kept.signed, list(items.values()))


def _signed_items(parts: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    return ((pb.Resource.FromString(part).key, part) for part in parts)


def open_last_known_good(
    settings: RouterSettings,
    state: ConfigState,
    load_text_model: LoadTextModel,
    clock: Clock,
    registry: CollectorRegistry,
) -> LastKnownGood | None:
    """The router's file; None without a state directory, or with one that cannot be used, which is logged."""
    if settings.state_dir is None:
        return None
    try:
        return LastKnownGood(
            Generations(settings.state_dir, NAME, _key(settings.state_dir)),
            settings.state_dir,
            _published(settings.config_signer_path),
            state,
            load_text_model,
            router=settings.router,
            max_age_seconds=settings.known_good_max_age_seconds,
            clock=clock,
            registry=registry,
        )
    except (OSError, ValueError, KnownGoodError) as error:
        cause = f"errno {error.errno}" if isinstance(error, OSError) else str(error)
        _log.error("NO LAST KNOWN GOOD CONFIG IS KEPT: %s: %s", settings.state_dir, cause)
        return None


def _published(path: Path | None) -> bytes:
    return bytes.fromhex(path.read_text("ascii")) if path else b""


def _key(state_dir: Path) -> bytes:
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return load_key(state_dir / "lkg.key")
