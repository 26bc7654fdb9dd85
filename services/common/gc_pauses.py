"""Keeps Python's collector of cycles from holding up requests: pauses it, and freezes long-lived objects."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager
from threading import Lock


def freeze() -> None:
    """Exclude every object that exists now from later collections.

    A collection would visit the million objects of 10,000 tenants again and again, hold up every request for a tenth of
    a second each time, and find nothing: configs hold no cycles and are freed by their reference counts.
    """
    # Collect the young generations first, since frozen garbage stays for ever. The old one would take that tenth.
    gc.collect(1)  # proven: garbage-is-not-frozen
    gc.freeze()


class _Pause:
    """Counts the threads that are inside; the last one to leave turns the collector on again."""

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


_pause = _Pause()


def paused() -> AbstractContextManager[None]:
    """Turn the collector off for the whole process while very many long-lived objects are made."""
    return _pause
