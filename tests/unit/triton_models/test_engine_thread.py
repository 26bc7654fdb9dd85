from __future__ import annotations

import threading

import pytest

from tests.fakes.manual_clock import ManualClock
from triton_models.cpu_engine.engine import GenerationRequest, TokenEvent
from triton_models.cpu_engine.engine_thread import EngineThread
from triton_models.cpu_engine.errors import QueueFullError, RequestError
from triton_models.cpu_engine.held_finals import GRACE_SECONDS, HeldFinals

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


@pytest.fixture
def harness():
    one = Harness()
    one.thread.start(WAIT_SECONDS)
    yield one
    one.engine.may_step.set()
    one.thread.close(WAIT_SECONDS)


def test_tokens_reach_their_own_sink(harness):
    sinks = [harness.add(number) for number in range(3)]
    assert [sink.wait() for sink in sinks] == ["finished"] * 3
    assert [sink.tokens for sink in sinks] == [[7, 7, 7]] * 3


def test_a_refusal_reaches_its_sink(harness):
    assert harness.add(1, GenerationRequest([1], 0)).wait() == "refused"


def test_a_client_that_has_gone_is_dropped_at_the_next_look_and_its_final_waits_out_a_grace(harness):
    harness.engine.limit = 10**9
    sink = harness.add(1)
    assert harness.engine.stepping.wait(WAIT_SECONDS)
    sink.gone = True
    harness.clock.advance(0.1)
    assert harness.engine.dropped.wait(WAIT_SECONDS)
    harness.steps(2)
    assert sink.outcome is None
    harness.clock.advance(GRACE_SECONDS)
    assert sink.wait() == "stopped"
    assert harness.engine.cancelled == [1]


def test_a_request_that_ends_by_itself_after_its_client_went_gets_its_final_after_the_grace(harness):
    harness.steps(0)  # the first look is behind it
    sink = Sink()
    sink.gone = True
    harness.thread.add(1, REQUEST, sink)
    harness.steps(3)  # as many as the request has tokens
    assert sink.outcome is None
    harness.clock.advance(GRACE_SECONDS)
    assert sink.wait() == "stopped"
    assert not harness.engine.cancelled


@pytest.mark.parametrize("ends", ["refused", "stopped", "server"])
def test_however_a_request_ends_a_client_that_has_gone_gets_its_final_after_the_grace(harness, ends):
    harness.engine.limit = 10**9
    sink = Sink()
    sink.gone = True
    harness.thread.add(1, GenerationRequest([1], 0) if ends == "refused" else REQUEST, sink)
    harness.thread.stop(1 if ends == "stopped" else 99)
    harness.watch.stops = ends == "server"
    harness.steps(2)
    assert sink.outcome is None
    harness.clock.advance(GRACE_SECONDS)
    assert sink.wait() == "stopped"


def test_clients_are_looked_for_ten_times_a_second_and_not_at_every_step(harness):
    harness.engine.limit = 10**9
    sink = harness.add(1)
    harness.steps(50)
    before = sink.looks
    harness.steps(50)
    assert sink.looks == before
    harness.clock.advance(0.1)
    harness.steps(2)
    assert sink.looks == before + 1


def test_what_is_held_is_bounded_and_leaves_in_its_order():
    clock = ManualClock()
    held = HeldFinals(clock.monotonic_seconds, max_held=2)
    sinks = [Sink() for _ in range(4)]
    for sink in sinks[:3]:
        held.hold(sink)
    assert list(held.due()) == sinks[:1]
    clock.advance(GRACE_SECONDS / 2)
    held.hold(sinks[3])
    assert list(held.due()) == sinks[1:2]
    clock.advance(GRACE_SECONDS / 2)
    assert list(held.due()) == sinks[2:3]
    assert list(held.all()) == sinks[3:]


def test_stop_ends_a_request_and_an_unknown_one_is_ignored(harness):
    harness.engine.limit = 10**9
    sink = harness.add(1)
    harness.thread.stop(99)
    harness.thread.stop(1)
    assert sink.wait() == "stopped"


def test_a_stopping_server_fails_what_is_in_flight(harness):
    harness.engine.limit = 10**9
    sink = harness.add(1)
    harness.watch.stops = True
    assert sink.wait() == "the server is stopping"
    assert harness.engine.idle


def test_closing_sends_the_finals_that_are_held():
    one = Harness(StubEngine(limit=10**9))
    one.thread.start(WAIT_SECONDS)
    sink = one.add(1)
    assert one.engine.stepping.wait(WAIT_SECONDS)
    sink.gone = True
    one.clock.advance(0.1)
    assert one.engine.dropped.wait(WAIT_SECONDS)
    one.thread.close(WAIT_SECONDS)
    assert sink.wait() == "stopped"


def test_closing_tells_who_is_in_flight():
    one = Harness(StubEngine(limit=10**9))
    one.thread.start(WAIT_SECONDS)
    sink = one.add(1)
    assert one.engine.stepping.wait(WAIT_SECONDS)
    one.thread.close(WAIT_SECONDS)
    assert sink.wait() == "stopped"


def test_the_inbox_is_bounded():
    one = Harness(max_inbox=2)
    one.engine.may_step.clear()
    one.thread.start(WAIT_SECONDS)
    sinks = [one.add(1)]
    assert one.engine.stepping.wait(WAIT_SECONDS)
    sinks += [one.add(2), one.add(3)]
    with pytest.raises(QueueFullError, match="Maximum queue size of 2"):
        one.add(4)
    one.engine.may_step.set()
    assert [sink.wait() for sink in sinks] == ["finished"] * 3
    one.thread.close(WAIT_SECONDS)


def test_death_fails_what_is_in_flight_and_in_the_inbox_and_what_comes_later():
    one = Harness()
    one.engine.may_step.clear()
    one.thread.start(WAIT_SECONDS)
    running = one.add(1)
    assert one.engine.stepping.wait(WAIT_SECONDS)
    waiting = one.add(2)
    one.engine.failure = MemoryError("gone")
    one.engine.may_step.set()
    assert [running.wait(), waiting.wait()] == ["the engine has failed"] * 2
    assert one.died.wait(WAIT_SECONDS)
    with pytest.raises(RequestError, match="the engine has failed"):
        one.add(3)
    assert one.deaths == [one.engine.failure]


def test_a_sink_that_breaks_costs_no_other_sink_its_answer_and_the_owner_still_hears_of_it():
    class Broken(Sink):
        def on_event(self, event):
            raise OSError("nobody reads")

        on_error = on_event

    one = Harness(StubEngine(limit=10**9))
    one.engine.may_step.clear()
    one.thread.start(WAIT_SECONDS)
    first = one.add(1)
    assert one.engine.stepping.wait(WAIT_SECONDS)
    one.thread.add(2, REQUEST, Broken())
    last = one.add(3)
    one.engine.may_step.set()
    assert [first.wait(), last.wait()] == ["the engine has failed"] * 2
    assert one.died.wait(WAIT_SECONDS)
    assert [str(error) for error in one.deaths] == ["nobody reads"]


def test_an_engine_that_cannot_be_built_is_told_to_the_starter():
    failure, deaths = OSError("no model"), []

    def build():
        raise failure

    thread = EngineThread(build, Watch(), 1, deaths.append)
    with pytest.raises(RuntimeError, match="could not be built") as told:
        thread.start(WAIT_SECONDS)
    assert told.value.__cause__ is failure
    thread.close(WAIT_SECONDS)
    assert deaths == [failure]
