"""The engine's own thread: takes requests and stops from an inbox, steps, and gives events to the sinks."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from triton_models.cpu_engine.delayed_finals import DelayedFinals
from triton_models.cpu_engine.engine import Engine, GenerationRequest, TokenEvent
from triton_models.cpu_engine.errors import QueueFullError, RequestError
from triton_models.cpu_engine.response_sink import ResponseSink
from triton_models.cpu_engine.server_watch import ServerWatch

_IDLE_POLL_SECONDS = 0.1
_CANCELLATION_CHECK_SECONDS = (
    0.1  # TensorRT-LLM's `cancellation_check_period_ms`; each look is a round trip to Triton
)
_FAILED, _STOPPED = "the engine has failed", "the engine has stopped"


@dataclass(frozen=True, slots=True)
class _Add:
    request_id: int
    request: GenerationRequest
    sink: ResponseSink


@dataclass(frozen=True, slots=True)
class _Stop:
    request_id: int


class EngineThread:
    """Owns an engine. When it dies, requests in flight and later ones fail, and `on_death` is called.

    Args:
        build: Makes the engine; called on the thread itself.
        watch: Notices that the server is stopping.
        max_inbox: Messages accepted between two steps.
        on_death: Called once, on the thread, with the exception that killed it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        build: Callable[[], Engine],
        watch: ServerWatch,
        max_inbox: int,
        on_death: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._build = build
        self._watch = watch
        self._max_inbox = max_inbox
        self._inbox: queue.Queue[_Add | _Stop] = queue.Queue(max_inbox)
        self._on_death = on_death
        self._clock = clock
        self._next_cancellation_check_seconds = clock()
        self._delayed_finals = DelayedFinals(clock)
        self._sinks: dict[int, ResponseSink] = {}
        self._closing = threading.Event()
        self._gate = threading.Lock()
        self._refusal: str | None = None
        self._death: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, timeout_seconds: float) -> None:
        """Start and wait until the engine is built.

        Raises:
            RuntimeError: it could not be built, or not in time.
        """
        self._thread.start()
        if not self._started.wait(timeout_seconds):
            raise RuntimeError(f"the engine did not start within {timeout_seconds:.0f} s")
        if self._death is not None:
            raise RuntimeError("the engine could not be built") from self._death

    def close(self, timeout_seconds: float) -> None:
        """Stop after the current step: running requests end as stopped, later ones are refused."""
        self._refuse(_STOPPED)
        self._closing.set()
        self._thread.join(timeout_seconds)

    def add(self, request_id: int, request: GenerationRequest, sink: ResponseSink) -> None:
        """Hand a request over; its tokens and its end go to the sink.

        Raises:
            RequestError: the engine is dead or closed, or the inbox is full.
        """
        self._put(_Add(request_id, request, sink))

    def stop(self, request_id: int) -> None:
        """End a request early, if it is still there.

        Raises:
            RequestError: the engine is dead or closed, or the inbox is full.
        """
        self._put(_Stop(request_id))

    def _put(self, message: _Add | _Stop) -> None:
        # Nothing is put in once a refusal is set, so that emptying the inbox then leaves no message behind.
        with self._gate:
            if self._refusal is not None:
                raise RequestError(self._refusal)
            try:
                self._inbox.put_nowait(message)
            except queue.Full:
                raise QueueFullError(self._max_inbox) from None

    def _refuse(self, reason: str) -> None:
        with self._gate:
            self._refusal = self._refusal or reason

    def _run(self) -> None:
        try:
            self._serve(self._build())
        except BaseException as error:  # noqa: BLE001 -- the owner decides about it
            self._die(error)

    def _serve(self, engine: Engine) -> None:
        self._started.set()
        while not self._closing.is_set():
            self._receive(engine)
            self._drop_cancelled(engine)
            self._look_at_server(engine)
            for event in engine.step():
                self._deliver(event)
            for sink in self._delayed_finals.due():
                sink.on_stopped()
        for sink in [*self._sinks.values(), *self._delayed_finals.all()]:
            _report(sink.on_stopped)
        self._fail_inbox(_STOPPED)

    def _die(self, error: BaseException) -> None:
        self._death = error
        self._refuse(_FAILED)
        self._started.set()
        try:
            for sink in [*self._sinks.values(), *self._delayed_finals.all()]:
                _report(partial(sink.on_error, _FAILED))
            self._fail_inbox(_FAILED)
        finally:
            self._on_death(error)

    def _fail_inbox(self, reason: str) -> None:
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, _Add):
                _report(partial(message.sink.on_error, reason))

    def _receive(self, engine: Engine) -> None:
        try:
            first = self._inbox.get(block=engine.idle, timeout=_IDLE_POLL_SECONDS)
        except queue.Empty:
            return
        # No more than are there now: messages that arrive meanwhile must not delay the next step.
        more = self._inbox.qsize()
        self._handle(engine, first)
        for _ in range(more):
            self._handle(engine, self._inbox.get_nowait())

    def _handle(self, engine: Engine, message: _Add | _Stop) -> None:
        match message:
            case _Add(request_id, request, sink):
                self._sinks[request_id] = sink  # before anything can go wrong with it
                try:
                    engine.add(request_id, request)
                except RequestError as error:
                    del self._sinks[request_id]
                    self._end(sink, partial(sink.on_error, str(error)))
            case _Stop(request_id):
                if engine.cancel(request_id):
                    sink = self._sinks.pop(request_id)
                    self._end(sink, sink.on_stopped)

    def _drop_cancelled(self, engine: Engine) -> None:
        if self._clock() < self._next_cancellation_check_seconds:
            return
        self._next_cancellation_check_seconds = self._clock() + _CANCELLATION_CHECK_SECONDS
        for request_id, sink in list(self._sinks.items()):
            if sink.cancelled():
                engine.cancel(request_id)
                self._delayed_finals.hold(self._sinks.pop(request_id))

    def _look_at_server(self, engine: Engine) -> None:
        if self._sinks and self._watch.stopping():
            for request_id in list(self._sinks):
                engine.cancel(request_id)
                sink = self._sinks.pop(request_id)
                self._end(sink, partial(sink.on_error, "the server is stopping"))

    def _deliver(self, event: TokenEvent) -> None:
        if not event.finished:
            self._sinks[event.request_id].on_event(event)
            return
        sink = self._sinks.pop(event.request_id)
        self._end(sink, partial(sink.on_error, event.error) if event.error else partial(sink.on_event, event))

    def _end(self, sink: ResponseSink, report: Callable[[], None]) -> None:
        # A request may end by itself between its cancellation and the next look at it.
        if sink.cancelled():
            self._delayed_finals.hold(sink)
        else:
            report()


def _report(report: Callable[[], None]) -> None:
    # A sink that fails, perhaps the one that killed the engine, must not keep the others from their end.
    with contextlib.suppress(Exception):
        report()
