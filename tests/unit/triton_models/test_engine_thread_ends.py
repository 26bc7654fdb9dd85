"""What the engine's thread owes its callers when it is full, closed or dead."""

from __future__ import annotations

import contextlib

import pytest

from tests.fakes.stub_engine import REQUEST, WAIT_SECONDS, Harness, Sink, StubEngine, Watch
from triton_models.cpu_engine.engine import GenerationRequest
from triton_models.cpu_engine.engine_thread import EngineThread
from triton_models.cpu_engine.errors import QueueFullError, RequestError


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


def test_closing_tells_who_is_in_the_inbox_and_refuses_who_comes_later():
    one = Harness(StubEngine(limit=10**9))
    one.engine.may_step.clear()
    one.thread.start(WAIT_SECONDS)
    running = one.add(1)
    assert one.engine.stepping.wait(WAIT_SECONDS)
    waiting = one.add(2)
    one.thread.close(0)  # the engine is in the middle of a step
    with pytest.raises(RequestError, match="the engine has stopped"):
        one.add(3)
    with pytest.raises(RequestError, match="the engine has stopped"):
        one.thread.stop(1)
    one.engine.may_step.set()
    assert [running.wait(), waiting.wait()] == ["stopped", "the engine has stopped"]
    assert not one.deaths


def test_a_sink_that_breaks_at_the_close_costs_no_other_its_final_and_is_no_death():
    class Broken(Sink):
        def on_stopped(self):
            raise OSError("nobody reads")

    one = Harness(StubEngine(limit=10**9))
    one.thread.start(WAIT_SECONDS)
    one.thread.add(1, REQUEST, Broken())
    other = one.add(2)
    one.steps(2)
    one.thread.close(WAIT_SECONDS)
    assert other.wait() == "stopped"
    assert not one.deaths


def test_a_request_that_the_engine_dies_of_is_told_too():
    one = Harness()
    one.thread.start(WAIT_SECONDS)
    assert one.add(1, GenerationRequest([1], -1)).wait() == "the engine has failed"
    assert one.died.wait(WAIT_SECONDS)
    assert [type(error) for error in one.deaths] == [ZeroDivisionError]


def add_until_refused(one, sinks):
    for number in range(2, 10**6):
        with contextlib.suppress(QueueFullError):
            sinks.append(one.add(number))


def test_whoever_hands_a_request_over_while_the_engine_dies_is_answered_once():
    one = Harness()
    one.engine.may_step.clear()
    one.thread.start(WAIT_SECONDS)
    sinks = [one.add(1)]
    assert one.engine.stepping.wait(WAIT_SECONDS)
    one.engine.failure = MemoryError("gone")
    one.engine.may_step.set()
    with pytest.raises(RequestError, match="the engine has failed"):
        add_until_refused(one, sinks)
    assert {sink.wait() for sink in sinks} == {"the engine has failed"}


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
