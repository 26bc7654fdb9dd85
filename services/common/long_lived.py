"""Objects that live as long as the config they are of."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def forgo_collecting() -> None:
    """Keep the collector of cycles away from everything there is now.

    It would visit the million objects of 10,000 tenants again and again, holding up every request for a tenth of a
    second each time, and find nothing: configs hold no cycles, and go by their reference counts.
    """
    # The young first, for what is garbage already would stay for ever; the old would take that tenth of a second.
    gc.collect(1)
    gc.freeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Make very many objects that live long, and no cycles: the collector would look at all of them over and over."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
