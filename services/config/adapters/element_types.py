"""The element types of adapters, as uploaded and as sent: float16, bfloat16, float32. Pure.

NumPy has no bfloat16: its values are kept as their 16 bits, the upper half of a float32, rounded to nearest, ties to
even.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Encoded = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ElementType:
    """One element type."""

    safetensors_name: str
    """Its name in a safetensors header."""
    stored: type[np.generic]
    """The NumPy type that holds its bytes."""
    encode: Callable[[Floats], Encoded]
    """Rounds to the nearest value; a value out of range becomes infinite."""
    decode: Callable[[Encoded], Floats]
    """Converts exactly."""


def _to_float16(values: Floats) -> Encoded:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _to_bfloat16(values: Floats) -> Encoded:
    bits = np.ascontiguousarray(values).view(np.uint32)
    half_up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + half_up) >> np.uint32(16)).astype(np.uint16)


def _from_bfloat16(values: Encoded) -> Floats:
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _widen(values: Encoded) -> Floats:
    return values.astype(np.float32)


ELEMENT_TYPES = {
    "float16": ElementType("F16", np.float16, _to_float16, _widen),
    "bfloat16": ElementType("BF16", np.uint16, _to_bfloat16, _from_bfloat16),
    "float32": ElementType("F32", np.float32, _widen, _widen),
}
