"""A whole state put together once for all the routers that are being sent it, and not kept for longer. Pure."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from services.config.discovery.messages import Piece, full_pieces
from services.config.state.config_state import ConfigState


class _Link:
    """A piece and what leads to the next one, which is put together when the first router gets that far."""

    def __init__(self, piece: Piece, rest: Iterator[Piece]) -> None:
        self.piece = piece
        self._rest = rest
        self._next: _Link | None = None

    def next(self) -> _Link:
        if self._next is None:
            self._next = _Link(next(self._rest), self._rest)
        return self._next


class _Pieces:
    """One state's pieces. Those behind every router are kept for the next one to start, and only until `close`."""

    def __init__(self, state: ConfigState) -> None:
        self.records = state.records
        rest = full_pieces(state)
        self.first: _Link | None = _Link(next(rest), rest)

    def close(self) -> None:
        self.first = None


class SharedPieces:
    """Routers start together, after a deployment or an outage: several cost hardly more than one.

    What is kept is the newest state that a router is being sent, no longer than that takes, and of older ones what
    lies between a fast router and a slow one.
    """

    def __init__(self) -> None:
        self._newest: weakref.ref[_Pieces] | None = None

    def of(self, state: ConfigState) -> Iterator[Piece]:
        """A state's pieces, in order."""
        pieces = self._newest() if self._newest is not None else None
        # Revisions move without the records.
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
            # What failed cannot go on: whoever starts next starts anew.
            pieces.close()  # proven: failed-pieces-are-made-anew
            raise
        yield link.piece
