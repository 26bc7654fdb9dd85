from __future__ import annotations

import pytest

from tests.fakes.manual_clock import ManualClock
from tests.fakes.stub_engine import REQUEST, WAIT_SECONDS, Harness, Sink
from triton_models.cpu_engine.delayed_finals import GRACE_SECONDS, DelayedFinals
from triton_models.cpu_engine.engine import GenerationRequest


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


def test_requests_that_keep_coming_in_do_not_keep_the_engine_from_its_steps(harness):
    refused = GenerationRequest([1], 0)

    class Persistent(Sink):
        def on_error(self, message):
            if not harness.engine.left:
                harness.thread.add(2, refused, Persistent())

    harness.thread.add(2, refused, Persistent())
    harness.steps(5)
    assert harness.add(1).wait() == "finished"


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
    held = DelayedFinals(clock.monotonic_seconds, max_held=2)
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
