"""The engine's own thread: takes requests and stops from an inbox, steps, hands events to the callers' sinks."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from triton_models.cpu_engine.engine import Engine, GenerationRequest, TokenEvent
from triton_models.cpu_engine.errors import QueueFullError, RequestError
from triton_models.cpu_engine.held_finals import HeldFinals
from triton_models.cpu_engine.response_sink import ResponseSink
from triton_models.cpu_engine.server_watch import ServerWatch

_IDLE_POLL_SECONDS = 0.1
_CANCELLATION_CHECK_SECONDS = (
    0.1  # TensorRT-LLM's `cancellation_check_period_ms`; each look is a round trip to Triton
)


@dataclass(frozen=True, slots=True)
class _Add:
    request_id: int
    request: GenerationRequest
    sink: ResponseSink


@dataclass(frozen=True, slots=True)
class _Stop:
    request_id: int


class EngineThread:
    """Owns an engine. Its death is told to every request in flight, to later ones, and to `on_death`.

    Args:
        build: Makes the engine; called on the thread itself.
        watch: Says whether the server that the answers go to is still there.
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
        self._held_finals = HeldFinals(clock)
        self._sinks: dict[int, ResponseSink] = {}
        self._closing = threading.Event()
        self._dead = threading.Event()
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
        if self._dead.is_set():
            raise RuntimeError("the engine could not be built") from self._death

    def close(self, timeout_seconds: float) -> None:
        """Stop after the current step; requests in flight are told that they were stopped."""
        self._closing.set()
        self._thread.join(timeout_seconds)

    def add(self, request_id: int, request: GenerationRequest, sink: ResponseSink) -> None:
        """Hand a request over; its fate reaches the sink.

        Raises:
            RequestError: the engine is dead or the inbox is full.
        """
        self._put(_Add(request_id, request, sink))

    def stop(self, request_id: int) -> None:
        """End a request early, if it is still there.

        Raises:
            RequestError: the engine is dead or the inbox is full.
        """
        self._put(_Stop(request_id))

    def _put(self, message: _Add | _Stop) -> None:
        if self._dead.is_set():
            raise RequestError("the engine has failed")
        try:
            self._inbox.put_nowait(message)
        except queue.Full:
            raise QueueFullError(self._max_inbox) from None
        if self._dead.is_set():
            self._fail_everything()  # it died between the check and the put

    def _run(self) -> None:
        try:
            self._serve(self._build())
        except BaseException as error:  # noqa: BLE001 -- handed to the owner, who decides what its death means
            self._die(error)

    def _serve(self, engine: Engine) -> None:
        self._started.set()
        while not self._closing.is_set():
            self._receive(engine)
            self._drop_cancelled(engine)
            self._look_at_server(engine)
            for event in engine.step():
                self._deliver(event)
            for sink in self._held_finals.due():
                sink.on_stopped()
        for sink in [*self._sinks.values(), *self._held_finals.all()]:
            sink.on_stopped()

    def _die(self, error: BaseException) -> None:
        self._death = error
        self._dead.set()
        self._started.set()
        try:
            self._fail_everything()
        finally:
            self._on_death(error)

    def _receive(self, engine: Engine) -> None:
        try:
            message = self._inbox.get(block=engine.idle, timeout=_IDLE_POLL_SECONDS)
            while True:
                self._handle(engine, message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _handle(self, engine: Engine, message: _Add | _Stop) -> None:
        match message:
            case _Add(request_id, request, sink):
                try:
                    engine.add(request_id, request)
                except RequestError as error:
                    self._end(sink, partial(sink.on_error, str(error)))
                else:
                    self._sinks[request_id] = sink
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
                self._held_finals.hold(self._sinks.pop(request_id))

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

    def _end(self, sink: ResponseSink, tell: Callable[[], None]) -> None:
        # A request may end by itself between its cancellation and the next look at it.
        if sink.cancelled():
            self._held_finals.hold(sink)
        else:
            tell()

    def _fail_everything(self) -> None:
        for sink in self._held_finals.all():
            _tell_failure(sink)
        while self._sinks:
            _, sink = self._sinks.popitem()
            _tell_failure(sink)
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, _Add):
                _tell_failure(message.sink)


def _tell_failure(sink: ResponseSink) -> None:
    # One sink that cannot be told, perhaps the very one that the engine died of, must not cost the others theirs.
    with contextlib.suppress(Exception):
        sink.on_error("the engine has failed")
