"""Builds the pieces of a whole state once for all routers that receive it, and keeps them no longer. Pure."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from services.config.discovery.messages import Piece, full_pieces
from services.config.state.config_state import ConfigState


class _Link:
    """A piece, and the link to the next one, which is built when the first router gets there."""

    def __init__(self, piece: Piece, rest: Iterator[Piece]) -> None:
        self.piece = piece
        self._rest = rest
        self._next: _Link | None = None

    def next(self) -> _Link:
        if self._next is None:
            self._next = _Link(next(self._rest), self._rest)
        return self._next


class _Pieces:
    """One state's pieces. The first ones are kept for routers that start later, until `close`."""

    def __init__(self, state: ConfigState) -> None:
        self.records = state.records
        rest = full_pieces(state)
        self.first: _Link | None = _Link(next(rest), rest)

    def close(self) -> None:
        self.first = None


class SharedPieces:
    """Shares pieces between routers that start together, as after a deployment or an outage.

    It keeps the pieces of the newest state while a router is being sent them, and of older states only those between
    the fastest router and the slowest one.
    """

    def __init__(self) -> None:
        self._newest: weakref.ref[_Pieces] | None = None

    def of(self, state: ConfigState) -> Iterator[Piece]:
        """The pieces of a state, in order."""
        pieces = self._newest() if self._newest is not None else None
        # Revisions advance without changing the records.
        if pieces is None or pieces.first is None or pieces.records is not state.records:
            if pieces is not None:
                pieces.close()  # proven: older-pieces-are-not-kept
            pieces = _Pieces(state)
            self._newest = weakref.ref(pieces)  # proven: pieces-live-with-readers
        assert pieces.first is not None
        return _read(pieces, pieces.first)


def _read(pieces: _Pieces, link: _Link) -> Iterator[Piece]:
    yield link.piece
    while not link.piece.last:
        try:
            link = link.next()
        except BaseException:
            # A generator that failed cannot go on: the next reader starts a new one.
            pieces.close()  # proven: failed-pieces-are-made-anew
            raise
        yield link.piece
