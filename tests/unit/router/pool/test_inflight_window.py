"""What waits inside a server makes its window smaller, down to one; an empty queue gives it back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.router.pool.inflight_window import InflightWindow


def test_what_waits_at_two_looks_in_a_row_is_taken_off():
    window = InflightWindow(16)
    assert window.observe(4, 16) == 16
    assert window.observe(4, 16) == 12
    assert window.observe(0, 12) == 14


def test_what_waits_at_one_look_has_just_arrived():
    window = InflightWindow(16)
    assert [window.observe(waiting, 16) for waiting in (4, 0, 4, 0)] == [16, 16, 16, 16]


def test_an_empty_queue_gives_everything_back_in_the_end():
    window = InflightWindow(16)
    for _ in range(9):
        window.observe(50, window.size or 16)
    assert window.size == 1
    sizes = [window.observe(0, 1) for _ in range(8)]
    assert sizes == [3, 5, 7, 9, 11, 13, 15, 16]


def test_a_server_that_says_nothing_gets_what_config_says():
    window = InflightWindow(16)
    window.observe(8, 16)
    assert window.observe(8, 16) == 8
    assert window.observe(None, 8) == 16


def test_a_changed_config_bounds_it_at_once():
    window = InflightWindow(16)
    window.observe(0, 0)
    window.most = 4
    assert window.observe(0, 0) == 4


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.none() | st.integers(0, 10**6), st.integers(0, 200)), max_size=50),
)
def test_it_is_never_below_one_and_never_above_the_config(most, looks):
    window = InflightWindow(most)
    for waiting, in_flight in looks:
        assert 1 <= window.observe(waiting, in_flight) <= most


@given(st.integers(1, 8), st.integers(1, 64))
def test_it_settles_where_nothing_waits(places_of_the_server, most):
    """A server that runs so many at once, and is always asked for more than it runs."""
    window, sizes = InflightWindow(most), []
    for _ in range(60):
        in_flight = window.size or most
        sizes.append(window.observe(max(0, in_flight - places_of_the_server), in_flight))
    assert max(sizes[-20:]) <= max(1, places_of_the_server) + max(1, most // 8) * 2
