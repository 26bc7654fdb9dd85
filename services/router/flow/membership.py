"""This router's membership in its mesh: what it tells the config service, and which flow controller it is told.

The newest assignment is kept on disk. A router that starts while the config service is away follows it: one that was
alone is alone, since no other can have joined; one among others asks the controller that it knew.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.common.durable_files import replace_file
from services.router.flow.assignment import Assignment
from services.router.flow.role import FlowRole

_log = logging.getLogger(__name__)
_FILE = "flow.json"
_CONFIG_SECONDS = 1.0
"""How long the config service may take to name a controller before the kept one is followed."""


class Membership:
    """Connects the stream of the config service with the role.

    Args:
        role: follows assignments.
        target: where others reach this router; empty for one that is alone.
        folder: keeps the newest assignment; None to keep none.
    """

    def __init__(self, role: FlowRole, target: str, folder: Path | None) -> None:
        self._role = role
        self._target = target
        self._path = None if folder is None else folder / _FILE
        self._changed = asyncio.Event()

    def introduce(self, hello: pb.RouterHello) -> None:
        """Add to a hello what the config service names flow controllers by."""
        hello.flow_target = self._target
        known = self._role.assignment
        if known is not None and self._target:
            hello.flow_epoch, hello.flow_controller = known.epoch, known.controller

    def connected(self, connected: bool) -> None:
        """Note whether the config service is reached."""
        self._role.config_connected = connected

    def heard(self, message: pb.FlowAssignment) -> None:
        """Follow what the config service names."""
        if not self._target:
            return
        assignment = Assignment(message.epoch, message.controller, message.target, frozenset(message.routers))
        self._role.assign(assignment)
        self._changed.set()

    async def run(self) -> None:
        """Follow the kept assignment if none comes, then keep each new one, for as long as the process lives."""
        if self._path is None or not self._target:
            return
        try:
            async with asyncio.timeout(_CONFIG_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            kept = await asyncio.to_thread(_read, self._path)
            if kept is not None and self._role.assignment is None and self._may_resume(kept):
                _log.warning("the config service names no flow controller: the one before is followed")
                self._role.assign(kept)
        while True:
            await self._changed.wait()
            self._changed.clear()
            assignment = self._role.assignment
            if assignment is not None:
                try:
                    await asyncio.to_thread(replace_file, self._path, _content(assignment))
                except OSError as error:
                    _log.warning("the flow controller's name is not kept: %s", type(error).__name__)

    def _may_resume(self, kept: Assignment) -> bool:
        # As controller only where no other router can hold anything.
        return kept.controller != self._role.router or kept.routers == {self._role.router}


def _content(assignment: Assignment) -> bytes:
    return json.dumps(
        {
            "epoch": assignment.epoch,
            "controller": assignment.controller,
            "target": assignment.target,
            "routers": sorted(assignment.routers),
        }
    ).encode()


def _read(path: Path) -> Assignment | None:
    try:
        kept = json.loads(path.read_bytes())
        return Assignment(
            int(kept["epoch"]), str(kept["controller"]), str(kept["target"]), frozenset(kept["routers"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
