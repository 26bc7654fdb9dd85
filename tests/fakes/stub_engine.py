"""An engine's thread over an engine without a model, whose steps a test holds, counts and breaks."""

from __future__ import annotations

import threading

from tests.fakes.manual_clock import ManualClock
from triton_models.cpu_engine.engine import GenerationRequest, TokenEvent
from triton_models.cpu_engine.engine_thread import EngineThread
from triton_models.cpu_engine.errors import RequestError

WAIT_SECONDS = 10
REQUEST = GenerationRequest([1], 3)


class StubEngine:
    """Gives each request `limit` tokens, one a step; the test may hold or break its steps."""

    def __init__(self, limit=3):
        self.limit = limit
        self.left: dict[int, int] = {}
        self.cancelled: list[int] = []
        self.may_step = threading.Event()
        self.may_step.set()
        self.failure: Exception | None = None
        self.stepping = threading.Event()
        self.dropped = threading.Event()
        self.steps = 0
        self.stepped = threading.Condition()

    @property
    def idle(self):
        return not self.left

    def add(self, request_id, request):
        if request.max_new_tokens == 0:
            raise RequestError("refused")
        if request.max_new_tokens < 0:
            raise ZeroDivisionError("a defect")
        self.left[request_id] = self.limit

    def cancel(self, request_id):
        self.cancelled.append(request_id)
        self.dropped.set()
        return self.left.pop(request_id, None) is not None

    def step(self):
        with self.stepped:
            self.steps += 1
            self.stepped.notify_all()
        if not self.left:
            return []
        self.stepping.set()
        assert self.may_step.wait(WAIT_SECONDS)
        if self.failure:
            raise self.failure
        events = []
        for request_id in list(self.left):
            self.left[request_id] -= 1
            finished = self.left[request_id] == 0
            if finished:
                del self.left[request_id]
            events.append(TokenEvent(request_id, 7, finished))
        return events


class Sink:
    def __init__(self):
        self.tokens = []
        self.outcome = None
        self.gone = False
        self.looks = 0
        self.done = threading.Event()

    def cancelled(self):
        self.looks += 1
        return self.gone

    def on_event(self, event):
        self.tokens.append(event.token)
        if event.finished:
            self._end("finished")

    def on_stopped(self):
        self._end("stopped")

    def on_error(self, message):
        self._end(message)

    def _end(self, outcome):
        assert self.outcome is None, "answered twice"
        self.outcome = outcome
        self.done.set()

    def wait(self):
        assert self.done.wait(WAIT_SECONDS)
        return self.outcome


class Watch:
    def __init__(self):
        self.stops = False

    def stopping(self):
        return self.stops


class Harness:
    def __init__(self, engine=None, max_inbox=8):
        self.engine = engine or StubEngine()
        self.clock = ManualClock()
        self.watch = Watch()
        self.deaths = []
        self.died = threading.Event()
        self.thread = EngineThread(
            lambda: self.engine, self.watch, max_inbox, self._on_death, self.clock.monotonic_seconds
        )

    def _on_death(self, error):
        self.deaths.append(error)
        self.died.set()

    def steps(self, count):
        """Wait until the engine took so many steps more, idle ones included; the last may still run."""
        engine = self.engine
        with engine.stepped:
            wanted = engine.steps + count + 1
            assert engine.stepped.wait_for(lambda: engine.steps >= wanted, WAIT_SECONDS)

    def add(self, number, request=REQUEST):
        sink = Sink()
        self.thread.add(number, request, sink)
        return sink
