"""Durations as people say them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.spoken_durations import spoken

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0.1 s"),
        (0.42, "0.4 s"),
        (9.9, "9.9 s"),
        (41.2, "42 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3599.5, "1 h"),
        (83_957.7, "23 h 20 min"),
        (86_400, "1 d"),
        (270_000, "3 d 3 h"),
    ],
)
def test_in_its_two_largest_units(seconds, said):
    assert spoken(seconds) == said


@given(st.floats(10, 1e8))
def test_never_less_than_it_takes_and_never_much_more(seconds):
    words = spoken(seconds).split()
    said = sum(int(words[i]) * _SECONDS[words[i + 1]] for i in range(0, len(words), 2))
    assert seconds <= said <= seconds * 1.05 + 1
