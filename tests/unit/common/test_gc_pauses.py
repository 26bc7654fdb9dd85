from __future__ import annotations

import gc
import weakref

import pytest

from services.common import gc_pauses
from tests.fakes.mutants import without


class Cycle:
    """Holds itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def unfrozen():
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def is_gone(module) -> bool:
    """Whether garbage of a moment ago is gone, once long-lived objects are left alone."""
    gone = weakref.ref(Cycle())
    assert gone() is not None
    module.freeze()
    gc.collect()
    return gone() is None


def test_young_garbage_is_not_kept_for_ever():
    assert is_gone(gc_pauses)


def test_that_test_notices_garbage_that_is_frozen():
    assert not is_gone(without(gc_pauses, "garbage-is-not-frozen"))


def test_the_collector_is_off_for_as_long_as_objects_are_made_even_if_that_fails():
    gc.enable()

    def fail():
        with gc_pauses.paused():
            assert not gc.isenabled()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert gc.isenabled()


def test_of_two_threads_at_it_the_last_to_leave_turns_the_collector_on_again():
    gc.enable()
    first, second = gc_pauses.paused(), gc_pauses.paused()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    with gc_pauses.paused():
        pass
    assert not gc.isenabled()


def test_what_lives_is_not_looked_at_any_more():
    gc_pauses.freeze()
    assert gc.get_freeze_count() > 1000
