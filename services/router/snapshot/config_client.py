"""Follows the config service: snapshots in, ACK or NACK and outcome counts out.

A snapshot is compiled in a thread and put in force by one assignment; a refused one changes nothing. A stream that
breaks or falls silent is opened again after a jittered delay; until then requests are served under the last snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Protocol

import grpc
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc as rpc

from services.common import gc_pauses
from services.common.backoff import Backoff
from services.common.rpc.interceptors import where
from services.router.snapshot.assembly import Assembled, AssemblyError, SnapshotAssembler, apply_to
from services.router.snapshot.compiler import (
    Compiled,
    LoadTextModel,
    SnapshotRefusedError,
    compile_snapshot,
)
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.model import Snapshot
from services.router.snapshot.outcomes import OutcomeCounts

_log = logging.getLogger(__name__)

# Heartbeats come every 0.5 s.
_SILENCE_SECONDS = 5.0
_REPORT_SECONDS = 0.25
_BACKOFF_BASE_SECONDS = 0.1
_BACKOFF_CAP_SECONDS = 2.0
_MAX_REASONS = 100

OnSnapshot = Callable[[Snapshot], None]
OnHeld = Callable[[int, Mapping[str, pb.Resource]], None]
"""Called with every revision that comes into force, and its resources."""
OnStatement = Callable[[pb.SnapshotStatement], None]
"""Called with every statement that the config service signed about a snapshot."""


class FlowMember(Protocol):
    """This router's membership in the flow control of its mesh: `flow.membership.Membership`."""

    def introduce(self, hello: pb.RouterHello) -> None:
        """Add to a hello what the config service names flow controllers by."""
        ...

    def connected(self, connected: bool) -> None:
        """Note whether the config service is reached."""
        ...

    def heard(self, message: pb.FlowAssignment) -> None:
        """Follow what the config service names."""
        ...


class _SilentError(Exception):
    """The stream fell silent, or the service ended it."""


class ConfigClient:
    """One router's stream to the config service."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        router: str,
        state: ConfigState,
        load_text_model: LoadTextModel,
        on_snapshot: OnSnapshot,
        on_held: OnHeld | None = None,
        on_statement: OnStatement | None = None,
        outcomes: OutcomeCounts,
        metrics: ConfigMetrics,
        flow: FlowMember | None = None,
    ) -> None:
        self._stub = rpc.ConfigDiscoveryServiceStub(channel)
        self._router = router
        self._process_id = secrets.token_hex(8)
        self._state = state
        self._load_text_model = load_text_model
        self._on_snapshot = on_snapshot
        self._on_held = on_held
        self._on_statement = on_statement
        self._outcomes = outcomes
        self._metrics = metrics
        self._flow = flow
        self._held: Mapping[str, pb.Resource] = {}
        self._compiled: Compiled | None = None
        self._write = asyncio.Lock()
        self._call: Any = None
        """The open stream; None between two."""
        self._leaving = False
        self._ended = asyncio.Event()
        """Set while no stream is open."""
        self._ended.set()
        self.at_rest = asyncio.Event()
        """Clear from a snapshot's first piece until it is in force or refused."""
        self.at_rest.set()

    async def run(self) -> NoReturn:
        """Follow, for as long as the process lives."""
        backoff = Backoff(_BACKOFF_BASE_SECONDS, _BACKOFF_CAP_SECONDS)
        with ThreadPoolExecutor(1, thread_name_prefix="compile") as compiler:
            # Connecting again after a goodbye would announce the router anew.
            while not self._leaving:
                try:
                    await self._follow(compiler, backoff)
                except (grpc.aio.AioRpcError, _SilentError, asyncio.InvalidStateError) as broken:
                    if not self._leaving:
                        _log.warning("config stream ended: %s", _cause(broken))
                await asyncio.sleep(backoff.next_delay_seconds())
            await asyncio.Event().wait()
            raise AssertionError("a fresh event is never set")

    def start_from(self, resources: Mapping[str, pb.Resource], compiled: Compiled) -> None:
        """Put a config from a file in force, until the config service sends one."""
        self._held, self._compiled, snapshot = resources, compiled, compiled.snapshot
        self._state.put(snapshot, from_file=True)
        self._on_snapshot(snapshot)
        self._metrics.snapshot_applied(snapshot.revision)

    async def leave(self, within_seconds: float) -> None:
        """Say goodbye on a clean stop, after the last request, so that the config service forgets this router at once.

        `run` has to be running; it connects no more. Where no stream is open, or the config service does not take the
        goodbye in time, the router is forgotten when it expires.
        """
        self._leaving = True
        if self._call is None:
            return
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with asyncio.timeout(within_seconds):
                await self._send(self._call, pb.StreamSnapshotsRequest(goodbye=pb.RouterGoodbye()))
                await self._call.done_writing()
                # The service ends the stream once it has read the goodbye.
                await self._ended.wait()

    async def _follow(self, compiler: ThreadPoolExecutor, backoff: Backoff) -> None:
        self._call = call = self._stub.StreamSnapshots()
        self._ended.clear()
        # One waits while another is compiled; a third blocks the stream, which only delays heartbeats.
        assembled: asyncio.Queue[Assembled] = asyncio.Queue(maxsize=1)
        tasks: list[asyncio.Task[NoReturn]] = []
        try:
            hello = pb.RouterHello(
                router=self._router, revision=self._state.revision, process_id=self._process_id
            )
            if self._flow is not None:
                self._flow.introduce(hello)
            await self._send(call, pb.StreamSnapshotsRequest(hello=hello))
            # Not a TaskGroup: on Python 3.11 it loses a cancellation that comes while its tasks fail.
            tasks.append(asyncio.create_task(self._read(call, assembled, backoff), name="read snapshots"))
            tasks.append(asyncio.create_task(self._apply(call, assembled, compiler), name="apply snapshots"))
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                # A task that ends cancelled met a call that is over; the other one has the cause.
                if not task.cancelled():
                    task.result()
            raise _SilentError
        finally:
            self._call = None
            self._connected(False)
            self._ended.set()
            self.at_rest.set()
            for task in tasks:
                task.cancel()
            call.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, call: Any, assembled: asyncio.Queue[Assembled], backoff: Backoff) -> NoReturn:
        assembler = SnapshotAssembler()
        follows_etcd = False
        loop, report_due = asyncio.get_running_loop(), 0.0
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await call.read()
            except TimeoutError:
                raise _SilentError from None
            if message is grpc.aio.EOF:
                raise _SilentError
            if message.HasField("heartbeat"):
                etcd_silence_seconds = _etcd_silence_seconds(message.heartbeat)
                follows_etcd = etcd_silence_seconds is not None
                if etcd_silence_seconds is not None:
                    self._state.heard(etcd_silence_seconds)  # proven: silence-before-the-heartbeat
                backoff.reset()
                self._connected(True)
                # A heartbeat also comes before every snapshot: among many changes, a report for each would cost more.
                if loop.time() >= report_due:
                    report_due = loop.time() + _REPORT_SECONDS
                    await self._report(call)
                continue
            if not message.HasField("chunk"):
                self._heard(message)
                continue
            self.at_rest.clear()
            try:
                whole = assembler.add(message.chunk)
            except AssemblyError as error:
                await self._refuse(call, message.chunk.nonce, message.chunk.revision, [str(error)])
                continue
            if whole is None:
                continue
            if whole.revision < self._state.revision and not follows_etcd:  # proven: older-and-stale
                # It started from a file, before etcd. The snapshot in force may hold a revocation that this one lacks.
                await self._refuse(
                    call, whole.nonce, whole.revision, ["older than what is in force, and stale"]
                )
                continue
            await assembled.put(whole)

    def _heard(self, message: pb.StreamSnapshotsResponse) -> None:
        """Take a message beside snapshots and heartbeats; ignores those that a newer config service may send."""
        if message.HasField("statement") and self._on_statement is not None:
            self._on_statement(message.statement)
        elif message.HasField("flow") and self._flow is not None:
            self._flow.heard(message.flow)

    def _connected(self, connected: bool) -> None:
        if self._flow is not None:
            self._flow.connected(connected)

    async def _apply(
        self, call: Any, assembled: asyncio.Queue[Assembled], compiler: ThreadPoolExecutor
    ) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            whole = await assembled.get()
            try:
                resources = apply_to(self._held, self._state.revision, whole)
                compiled = await loop.run_in_executor(
                    compiler,
                    compile_snapshot,
                    whole.revision,
                    resources,
                    self._load_text_model,
                    self._compiled,
                    whole.touched,
                )
            except AssemblyError as error:
                await self._refuse(call, whole.nonce, whole.revision, [str(error)])
                continue
            except SnapshotRefusedError as error:
                await self._refuse(call, whole.nonce, whole.revision, error.reasons)
                continue
            except Exception as error:  # noqa: BLE001 - no config may take down every router that is sent it
                _log.error("compiling failed: %s at %s", type(error).__name__, where(error))
                await self._refuse(call, whole.nonce, whole.revision, ["this router cannot compile it"])
                continue
            self._held, self._compiled, snapshot = resources, compiled, compiled.snapshot
            self._state.put(snapshot)
            self.at_rest.set()
            self._on_snapshot(snapshot)
            self._metrics.snapshot_applied(snapshot.revision)
            if self._on_held is not None:
                self._on_held(snapshot.revision, resources)
            if whole.touched is None:
                gc_pauses.freeze()
            _log.info("config revision %d is in force", snapshot.revision)
            ack = pb.SnapshotAck(nonce=whole.nonce, revision=whole.revision)
            await self._send(call, pb.StreamSnapshotsRequest(ack=ack))

    async def _refuse(self, call: Any, nonce: str, revision: int, reasons: list[str]) -> None:
        self.at_rest.set()
        self._metrics.snapshot_refused()
        _log.error("config revision %d refused: %s", revision, "; ".join(reasons[:_MAX_REASONS]))
        nack = pb.SnapshotNack(nonce=nonce, revision=revision, reasons=reasons[:_MAX_REASONS])
        await self._send(call, pb.StreamSnapshotsRequest(nack=nack))

    async def _report(self, call: Any) -> None:
        # Sent without counts, too: it shows the config service that this router lives.
        report = self._outcomes.take() or pb.OutcomeReport()
        try:
            await self._send(call, pb.StreamSnapshotsRequest(outcomes=report))
        except BaseException:
            self._outcomes.put_back(report)
            raise

    async def _send(self, call: Any, message: pb.StreamSnapshotsRequest) -> None:
        async with self._write:
            # After the goodbye the router's side of the stream is closed: a write would cancel it, goodbye included.
            if self._leaving and not message.HasField("goodbye"):  # proven: nothing-after-the-goodbye
                return
            await call.write(message)


def _etcd_silence_seconds(heartbeat: pb.Heartbeat) -> float | None:
    """How long ago etcd last gave the config service a sign of life; None if the config service lost etcd.

    A config service without etcd cannot know what it misses. Until it notices the loss, the silence bounds the age of
    its news.
    """
    return heartbeat.etcd_silence_ms / 1000 if heartbeat.etcd_connected else None


def _cause(broken: Exception) -> str:
    if not isinstance(broken, grpc.aio.AioRpcError):
        return type(broken).__name__
    # Two routers of one name: the config service says what to do.
    said = f": {broken.details()}" if broken.code() is grpc.StatusCode.ALREADY_EXISTS else ""
    return f"{broken.code().name}{said}"
