"""Settled sequences are remembered exactly, in memory that grows with their holes only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.logs.sessions import SettledSequences, WriterSession
from services.audit.storage.frames import Frame, FrameError, FrameKind, SessionMark

steps = st.lists(st.tuples(st.sampled_from(["add", "below"]), st.integers(1, 40)), max_size=40)


@given(steps)
def test_it_is_the_set_it_stands_for(script):
    settled, model = SettledSequences(), set()
    for step, sequence in script:
        if step == "add":
            settled.add(sequence)
            model.add(sequence)
        else:
            settled.add_below(sequence)
            model.update(range(1, sequence))
        assert {number for number in range(1, 42) if number in settled} == model
        holes = [number for number in range(1, 41) if number not in model and number + 1 in model]
        assert len(settled.ranges) == len(holes)
    again = SessionMark.of(SessionMark(b"s" * 16, settled.through, settled.ranges).frame())
    assert (again.sequence, again.ranges) == (settled.through, settled.ranges)


def test_a_sequence_that_never_comes_costs_one_hole_however_many_follow():
    session = WriterSession(b"s" * 16)
    for sequence in range(2, 50_000):
        session.settled.add(sequence)
    assert (session.durable_sequence, session.settled.ranges) == (0, ((2, 49_999),))
    session.settled.add_below(2)
    assert (session.durable_sequence, session.settled.ranges) == (49_999, ())


def test_a_mark_says_more_than_the_session_without_changing_it():
    session = WriterSession(b"s" * 16)
    assert session.mark([2, 1, 4]) == SessionMark(b"s" * 16, 2, ((4, 4),))
    assert (session.durable_sequence, session.settled.ranges) == (0, ())


@pytest.mark.parametrize("size", [0, 16, 20, 32, 41])
def test_marks_of_another_length_are_none(size):
    with pytest.raises(FrameError):
        SessionMark.of(Frame(FrameKind.SESSION, bytes(size)))
