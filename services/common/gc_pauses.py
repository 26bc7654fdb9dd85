"""Objects that live as long as the config they are of."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager
from threading import Lock


def forgo_collecting() -> None:
    """Keep the collector of cycles away from everything there is now.

    It would visit the million objects of 10,000 tenants again and again, holding up every request for a tenth of a
    second each time, and find nothing: configs hold no cycles, and go by their reference counts.
    """
    # The young first, for what is garbage already would stay for ever; the old would take that tenth of a second.
    gc.collect(1)
    gc.freeze()


class _Off:
    """The collector, off for as long as somebody is in here; of several threads the last to leave turns it on again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._was_on = False

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._was_on:
                gc.enable()


_off = _Off()


def uncollected() -> AbstractContextManager[None]:
    """While very many objects are made that live long, and no cycles: the collector would look at them over and over.

    It is off for the whole process meanwhile.
    """
    return _off
