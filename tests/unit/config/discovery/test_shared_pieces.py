"""Routers that start together share one encoding of the state, and it is freed once they have it."""

from __future__ import annotations

import gc
import weakref
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenantry.config.v1 import pool_pb2

from services.config.discovery import messages as snapshot_messages
from services.config.discovery import shared_pieces
from services.config.discovery.messages import full
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Stored
from services.config.state.config_state import ConfigState, ConfigStateBuilder
from services.config.state.sealing import TenantKeys
from tests.fakes.mutants import changed, without

BUILDER = ConfigStateBuilder(TenantKeys(b"r" * 32))


def state_of(pools: int, revision: int, server_model: str = "m") -> ConfigState:
    value = pool_pb2.Pool(server_model=server_model).SerializeToString()
    items = {etcd_keys.pool_key(f"p{number:03d}"): Stored(value, revision) for number in range(pools)}
    return BUILDER.full(items, revision, ConfigState())


@pytest.fixture(autouse=True)
def one_resource_a_piece(monkeypatch):
    monkeypatch.setattr(snapshot_messages, "CHUNK_BYTES", 1)


class Encoded:
    """Counts the pieces that are built, and those still in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module=shared_pieces) -> None:
        self.count = 0
        self._alive: weakref.WeakSet[object] = weakref.WeakSet()
        made = snapshot_messages.full_pieces

        class Watched:
            """A piece that can be weakly referenced."""

            def __init__(self, piece):
                self.body, self.last = piece.body, piece.last

        def watched(state):
            for piece in made(state):
                self.count += 1
                one = Watched(piece)
                self._alive.add(one)
                yield one

        monkeypatch.setattr(module, "full_pieces", watched)

    @property
    def alive(self) -> int:
        return len(self._alive)


def take(pieces, count):
    """Read as a router that stops there and keeps nothing."""
    for _ in islice(pieces, count):
        pass


def test_ten_routers_in_step_cost_one_encoding(monkeypatch):
    encoded, shared, state = Encoded(monkeypatch), shared_pieces.SharedPieces(), state_of(40, 7)
    routers = [shared.of(state) for _ in range(10)]
    for _ in range(40):
        for router in routers:
            take(router, 1)
    assert encoded.count == 40


def test_one_that_starts_while_another_is_nearly_done_is_sent_the_same_from_the_first_piece(monkeypatch):
    encoded, shared, state = Encoded(monkeypatch), shared_pieces.SharedPieces(), state_of(40, 7)
    ahead = shared.of(state)
    take(ahead, 39)
    late = list(full(state, "n", shared.of(state)))
    assert [m.SerializeToString() for m in late] == [m.SerializeToString() for m in full(state, "n")]
    assert [piece.last for piece in ahead] == [True]
    assert encoded.count == 40


def left_over(monkeypatch, module) -> int:
    encoded, shared, state = Encoded(monkeypatch, module), module.SharedPieces(), state_of(40, 7)
    first, second = shared.of(state), shared.of(state)
    take(first, 40)
    take(second, 17)
    assert encoded.alive == 40
    # One has received everything, one has hung up.
    del first
    second.close()
    del second
    return encoded.alive


def test_nothing_is_kept_once_every_router_has_it_or_is_gone(monkeypatch):
    gc.disable()
    try:
        assert left_over(monkeypatch, shared_pieces) == 0
    finally:
        gc.enable()


def test_that_test_notices_pieces_that_are_kept(monkeypatch):
    keeping = changed(shared_pieces, "pieces-live-with-readers", "self._newest = lambda: pieces")
    assert left_over(monkeypatch, keeping) == 40


def kept_for_slow_routers(monkeypatch, module) -> int:
    """Ten states come and go; of each, one router has taken ten pieces of forty and stopped reading."""
    encoded, shared = Encoded(monkeypatch, module), module.SharedPieces()
    slow = []
    for revision in range(10):
        router = shared.of(state_of(40, revision + 1))
        take(router, 10)
        slow.append(router)
    alive = encoded.alive
    for router in slow:
        assert len(list(router)) == 30
    return alive


def test_slow_routers_at_older_states_keep_a_piece_each(monkeypatch):
    assert kept_for_slow_routers(monkeypatch, shared_pieces) <= 9 + 10


def test_that_test_notices_older_states_that_are_kept_whole(monkeypatch):
    keeping = without(shared_pieces, "older-pieces-are-not-kept")
    assert kept_for_slow_routers(monkeypatch, keeping) == 100


def test_between_a_fast_router_and_a_slow_one_lies_what_an_older_state_keeps(monkeypatch):
    encoded, shared = Encoded(monkeypatch), shared_pieces.SharedPieces()
    older = state_of(40, 1)
    slow, fast = shared.of(older), shared.of(older)
    take(slow, 5)
    take(fast, 25)
    # What lies behind both is kept for others to start from, until there is a newer state.
    assert encoded.alive == 25
    newest = shared.of(state_of(40, 2))
    take(newest, 1)
    assert encoded.alive == 21 + 1
    take(slow, 20)
    assert encoded.alive == 1 + 1


def started_after_a_failure(monkeypatch, module) -> int:
    """Building a piece fails once, while one router is ahead of another; then a third one starts."""
    made, failures = snapshot_messages.full_pieces, iter([True])

    def failing_once(state):
        for number, piece in enumerate(made(state)):
            if number == 20 and next(failures, False):
                raise MemoryError
            yield piece

    monkeypatch.setattr(module, "full_pieces", failing_once)
    shared, state = module.SharedPieces(), state_of(40, 7)
    behind, ahead = shared.of(state), shared.of(state)
    take(behind, 1)
    with pytest.raises(MemoryError):
        take(ahead, 40)
    return len(list(shared.of(state)))


def test_what_fails_once_ends_the_streams_it_failed_and_no_later_one(monkeypatch):
    assert started_after_a_failure(monkeypatch, shared_pieces) == 40


def test_that_test_notices_a_failure_that_is_kept(monkeypatch):
    keeping = without(shared_pieces, "failed-pieces-are-made-anew")
    with pytest.raises(RuntimeError):
        started_after_a_failure(monkeypatch, keeping)


def test_a_state_whose_revision_alone_moved_is_shared_and_another_one_is_not(monkeypatch):
    encoded, shared, state = Encoded(monkeypatch), shared_pieces.SharedPieces(), state_of(3, 7)
    first = shared.of(state)
    take(first, 1)
    moved = list(full(BUILDER.changed(state, [], 9), "n", shared.of(BUILDER.changed(state, [], 9))))
    assert (encoded.count, {message.chunk.revision for message in moved}) == (3, {9})
    other = list(full(state_of(3, 9, "other"), "n", shared.of(state_of(3, 9, "other"))))
    assert [r.pool.server_model for m in other for r in m.chunk.resources] == ["other"] * 3


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.booleans()), max_size=40))
def test_however_routers_come_and_read_each_is_sent_its_whole_state(steps):
    shared, states = shared_pieces.SharedPieces(), [state_of(4, revision + 1) for revision in range(2)]
    reading: dict[int, tuple[ConfigState, list, object]] = {}
    newest = 0
    for router, count, moves in steps:
        newest = newest or int(moves)
        if router not in reading:
            reading[router] = (states[newest], [], shared.of(states[newest]))
        _, got, pieces = reading[router]
        got.extend(islice(pieces, count))
    for state, got, pieces in reading.values():
        sent = [message.SerializeToString() for message in full(state, "n", [*got, *pieces])]
        assert sent == [message.SerializeToString() for message in full(state, "n")]
