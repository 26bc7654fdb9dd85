"""Broken copies of modules: a test of a boundary is shown to fail when the boundary is taken away."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType


def mutant(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of a module with one place of its source changed; the original stays as it is."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"the source holds {old!r} {source.count(old)} times"
    copy = ModuleType(f"{module.__name__}__mutant")
    copy.__file__ = module.__file__
    # Dataclasses look their module up while they are made.
    sys.modules[copy.__name__] = copy
    try:
        exec(compile(source.replace(old, new), str(module.__file__), "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    return copy
