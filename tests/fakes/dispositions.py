"""Signal dispositions for tests: a run under `nohup`, or in a shell's background, ignores what others do not."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def dispositions(ignored: Iterable[signal.Signals] = ()) -> Iterator[None]:
    """The stopping signals as a terminal's shell leaves them, but for those to ignore; in this process, for a while."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    _set(frozenset(ignored))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_child(ignored: Iterable[signal.Signals] = ()) -> Callable[[], None]:
    """The same for a child process, as its `preexec_fn`."""
    numbers = frozenset(ignored)
    return lambda: _set(numbers)


def _set(ignored: frozenset[signal.Signals]) -> None:
    for number in STOPPING:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else usual)
