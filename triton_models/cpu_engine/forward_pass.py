"""The interface of an executor, which keeps the engine apart from OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from triton_models.cpu_engine.adapter_layout import Adapter


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's part of a forward pass."""

    tokens: Sequence[int]
    start: int
    """Position of the first token; everything before it is in the cache."""
    blocks: Sequence[int]
    adapter_slot: int | None
    samples: bool
    """Whether the logits of the last token are wanted."""


class ForwardPass(Protocol):
    """Computes logits for the engine."""

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Fill an adapter slot."""
        ...

    def forget_blocks(self, blocks: Sequence[int]) -> None:
        """Zero KV blocks."""
        ...

    def forward(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Logits [rows that sample, vocabulary]."""
        ...
