"""Keeps the config in force in a sealed file, and starts from it while the config service sends none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Gauge
from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.common.clock import Clock
from services.common.interceptors import where
from services.common.known_good import Expected, Header, Kind, KnownGood, KnownGoodError
from services.common.known_good_files import Generations, load_key
from services.common.known_good_writer import Content, KnownGoodWriter
from services.router.config_state import ConfigState
from services.router.settings import RouterSettings
from services.router.snapshot_compiler import Compiled, LoadTextModel, SnapshotRefusedError, compile_snapshot

_log = logging.getLogger(__name__)

NAME = "known-good"
START_SECONDS = 0.5
"""How long the config service has to send a config to a router that starts."""
SETTLE_SECONDS = 1.0
"""How long after a change the file is written: not by a router that the change ends at once."""

Resources = Mapping[str, pb.Resource]
StartFrom = Callable[[Resources, Compiled], None]


class LastKnownGood:
    """The file of one router. Whatever the config service sends wins over it, unless that is older and stale too."""

    def __init__(
        self,
        files: Generations,
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
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._held: tuple[int, Resources] | None = None
        self._writer = KnownGoodWriter(files, self._content, registry, settle_seconds=SETTLE_SECONDS)
        from_file = Gauge(
            "tenantry_config_from_file",
            "1 while the config in force is out of the last known good file.",
            registry=registry,
        )
        from_file.set_function(lambda: state.from_file)

    def hold(self, revision: int, resources: Resources) -> None:
        """What the config service sent is in force; nobody changes it from here on."""
        self._held = (revision, resources)
        self._writer.changed()

    async def run(self, start_from: StartFrom) -> None:
        """Start, and keep the file near what is in force, for as long as the process lives."""
        await self.start_without_config(start_from)
        await self._writer.run()

    async def finish(self, within_seconds: float) -> None:
        """Write what is not written yet, on a clean stop."""
        await self._writer.finish(within_seconds)

    async def start_without_config(self, start_from: StartFrom) -> None:
        """Put the file's config in force if the config service sends none in time."""
        await asyncio.sleep(START_SECONDS)
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
        _log.error(
            "ALARM: the config service sends no config; serving revision %d, which was current %.0f s ago, from %s",
            known.header.revision,
            known.header.age_seconds(self._clock.wall_seconds()),
            known.path,
        )

    def _has_config(self) -> bool:
        return self._state.revision > 0

    def _compiled(self) -> Iterator[tuple[KnownGood, Resources, Compiled]]:
        expected = Expected(Kind.ROUTER, self._router, self._max_age_seconds)
        for known in self._files.readable(expected, self._clock.wall_seconds()):
            try:
                found = [pb.Resource.FromString(part) for part in known.parts]
                resources = {resource.key: resource for resource in found}
                compiled = compile_snapshot(known.header.revision, resources, self._load_text_model)
            except (DecodeError, SnapshotRefusedError) as error:
                _log.error("LAST KNOWN GOOD REFUSED: %s: %s", known.path, error)
                continue
            except Exception as error:  # noqa: BLE001 - a file must not keep a router from its live config
                _log.error(
                    "LAST KNOWN GOOD REFUSED: %s: %s at %s", known.path, type(error).__name__, where(error)
                )
                continue
            yield known, resources, compiled

    def _content(self) -> Content | None:
        silence_seconds = self._state.silence_seconds
        # Whether a config is current only one that follows etcd can tell; none has since the start.
        if self._held is None or silence_seconds is None:
            return None
        revision, resources = self._held
        current_ms = int(1000 * (self._clock.wall_seconds() - silence_seconds))
        header = Header(Kind.ROUTER, "", self._router, revision, current_ms)
        return Content(header, lambda: [resource.SerializeToString() for resource in resources.values()])


def open_last_known_good(
    settings: RouterSettings,
    state: ConfigState,
    load_text_model: LoadTextModel,
    clock: Clock,
    registry: CollectorRegistry,
) -> LastKnownGood | None:
    """The router's file; None without a state directory, or with one that cannot be used, which is told loudly."""
    if settings.state_dir is None:
        return None
    try:
        key = _key(settings.state_dir)
    except (OSError, KnownGoodError) as error:
        cause = str(error) if isinstance(error, KnownGoodError) else f"errno {error.errno}"
        _log.error("NO LAST KNOWN GOOD CONFIG IS KEPT: %s: %s", settings.state_dir, cause)
        return None
    return LastKnownGood(
        Generations(settings.state_dir, NAME, key),
        state,
        load_text_model,
        router=settings.router,
        max_age_seconds=settings.known_good_max_age_seconds,
        clock=clock,
        registry=registry,
    )


def _key(state_dir: Path) -> bytes:
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return load_key(state_dir / "lkg.key")
