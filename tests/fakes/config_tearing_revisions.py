"""`python -m tests.fakes.config_tearing_revisions`: the mutant that shows a revision in two halves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from services.config.etcd.follower import KeyChange
from services.config.main import main
from services.config.state.current_state import CurrentState

_APART_SECONDS = 0.02
_apply = CurrentState.apply
_second_halves: list[Callable[[], None]] = []


def _apply_in_halves(state: CurrentState, changes: Iterable[KeyChange], revision: int) -> None:
    _finish()
    whole = list(changes)
    middle = len(whole) // 2
    _apply(state, whole[:middle], revision)
    _second_halves.append(lambda: _apply(state, whole[middle:], revision))
    asyncio.get_running_loop().call_later(_APART_SECONDS, _finish)


def _finish() -> None:
    while _second_halves:
        _second_halves.pop(0)()


CurrentState.apply = _apply_in_halves  # type: ignore[assignment, method-assign]  # the mutation

if __name__ == "__main__":
    main()
