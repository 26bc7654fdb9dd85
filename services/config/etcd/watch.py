"""Lists a prefix, then watches it, for as long as the process lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from tenantry.etcdapi.v1 import etcd_service_pb2 as pb
from tenantry.etcdapi.v1 import etcd_service_pb2_grpc as rpc

from services.common.backoff import Backoff
from services.common.errors import Error
from services.config.etcd.client import EtcdClient, key_text, range_end
from services.config.etcd.follower import Follower, KeyChange
from services.config.etcd.store import CompactedError, Stored
from services.config.etcd.watch_state import Apply, Reconnect, Relist, Response, WatchState

_log = logging.getLogger(__name__)
SILENCE_SECONDS = 2.0
"""Ends a stream on which etcd sends nothing for so long, although it is asked for progress."""
_PROBES = 8
"""How often etcd is asked within that time. Each answer resets the silence that routers are shown."""
# Lets a member of etcd that has lost its cluster end the watch; otherwise it would stay silent for ever.
_METADATA = (("hasleader", "true"),)


class _SilentError(Exception):
    """etcd sent nothing, although it was asked."""


class EtcdWatch:
    """Follows a prefix and passes what it sees to the followers, in order."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        client: EtcdClient,
        prefix: str,
        followers: Sequence[Follower],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._watch = rpc.WatchStub(channel)
        self._client = client
        self._history = client.history
        self._history.on_end = self._history_ended
        self._listed_history = 0
        self._prefix = prefix
        self._followers = followers
        self._silence_seconds = silence_seconds

    async def run(self) -> None:
        """Run until cancelled; every failure leads to a reconnect."""
        backoff = Backoff(0.05, 2.0)
        state: WatchState | None = None
        while True:
            try:
                if state is None:
                    items, revision = await self._client.list(self._prefix)
                    self._listed_history = self._history.number
                    state = WatchState(revision + 1, self._history.cluster_id)
                    for follower in self._followers:
                        follower.replace(items, revision)
                    self._heard()
                if await self._follow(state, backoff.reset):
                    # A member that lags behind must not cause one list after the other without a pause.
                    state = None
                    await asyncio.sleep(backoff.next_delay_seconds())
                    continue
            except CompactedError:
                state = None
            except (
                grpc.aio.AioRpcError,
                asyncio.InvalidStateError,
                Error,
                TimeoutError,
                _SilentError,
            ) as error:
                _log.warning("etcd watch: %s", type(error).__name__)
            for follower in self._followers:
                follower.lost()
            await asyncio.sleep(backoff.next_delay_seconds())

    async def _follow(self, state: WatchState, heard: Callable[[], None]) -> bool:
        """Follow one stream; returns True when a new list is needed."""
        call = self._watch.Watch(metadata=_METADATA)
        state.connected()
        read: asyncio.Task[Any] | None = None
        probes = 0
        try:
            start_revision = state.next_revision  # proven: watch-begins-where-it-ended
            create = pb.WatchCreateRequest(
                key=self._prefix.encode(),
                range_end=range_end(self._prefix.encode()),
                start_revision=start_revision,
                progress_notify=True,
                fragment=True,
            )
            await self._send(call, pb.WatchRequest(create_request=create))
            while True:
                # asyncio.wait, not wait_for: cancelling a pending read would cancel the stream.
                read = read or asyncio.ensure_future(call.read())
                done, _ = await asyncio.wait({read}, timeout=self._silence_seconds / _PROBES)
                if not done:
                    probes += 1
                    if probes >= _PROBES:
                        raise _SilentError
                    await self._send(call, pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
                    continue
                message, read, probes = read.result(), None, 0
                if message is grpc.aio.EOF:
                    raise _SilentError
                verdict = state.take(_response(message))
                if isinstance(verdict, Relist):
                    if verdict.another_history:
                        _log.warning("etcd is at revision %d, behind what it showed", message.header.revision)
                        self._history.end()
                    return True
                if self._listed_history != self._history.number:
                    return True
                if isinstance(verdict, Reconnect):
                    raise _SilentError
                heard()
                self._heard()
                if isinstance(verdict, Apply):
                    self._history.reached(verdict.revision)
                    for follower in self._followers:
                        follower.apply(verdict.changes, verdict.revision)
        finally:
            call.cancel()
            if read is not None:
                read.cancel()
                await asyncio.gather(read, return_exceptions=True)

    def _heard(self) -> None:
        for follower in self._followers:
            follower.heard()

    def _history_ended(self) -> None:
        for follower in self._followers:
            follower.history_ended()

    async def _send(self, call: Any, request: pb.WatchRequest) -> None:
        async with asyncio.timeout(self._silence_seconds):
            await call.write(request)


def _response(message: pb.WatchResponse) -> Response:
    return Response(
        revision=message.header.revision,
        cluster_id=message.header.cluster_id,
        watch_id=message.watch_id,
        created=message.created,
        canceled=message.canceled,
        compact_revision=message.compact_revision,
        fragment=message.fragment,
        changes=tuple(
            KeyChange(
                key_text(event.kv.key),
                Stored(event.kv.value, event.kv.mod_revision) if event.type == pb.Event.PUT else None,
                event.kv.mod_revision,
            )
            for event in message.events
        ),
    )
