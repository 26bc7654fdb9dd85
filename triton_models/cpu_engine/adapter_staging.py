"""Memory of the adapters: each resident one in its slot, those of the current batch stacked for the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from triton_models.cpu_engine.adapter_layout import Adapter, LoraModule

Place = tuple[int, LoraModule]
Matrix = npt.NDArray[np.float32]

_ROW_MULTIPLE = 8  # matrix kernels waste less on it; also the rows there are when no adapter is in the batch


class AdapterStaging:
    """Slots of adapters, and a stack of the rows of those in use.

    The cost of a batch grows with the ranks of its own adapters, not with the number of resident ones.

    Args:
        sizes: (in, out) of each (layer, module).
        slots: How many adapters can be resident.
        max_rank: The largest rank of one.
    """

    def __init__(self, sizes: Mapping[Place, tuple[int, int]], slots: int, max_rank: int) -> None:
        self._resident: list[dict[Place, tuple[Matrix, Matrix]]] = [{} for _ in range(slots)]
        self._ranks = [0] * slots
        rows = -(-slots * max_rank // _ROW_MULTIPLE) * _ROW_MULTIPLE
        # Pages that no batch ever reaches are never touched, so they take no memory.
        self._stack = {
            place: (np.empty((rows, into), np.float32), np.empty((rows, out), np.float32))
            for place, (into, out) in sizes.items()
        }
        self._staged: tuple[int, ...] | None = None
        self._owners: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def store(self, slot: int, adapter: Adapter) -> None:
        """Keep an adapter in a slot, replacing the one there."""
        self._resident[slot] = {
            place: (term.a.astype(np.float32), np.ascontiguousarray(term.b.T, np.float32))
            for place, term in adapter.items()
        }
        self._ranks[slot] = max(term.rank for term in adapter.values())
        if self._staged is not None and slot in self._staged:
            self._staged = None

    def stage(self, slots: Sequence[int | None]) -> dict[Place, tuple[Matrix, Matrix]] | None:
        """Stack the adapters of a batch.

        Args:
            slots: The slot of each sequence, None for the base model.

        Returns:
            A [rows, in] and transposed B [rows, out] of each place, views that stay valid until the next change;
            None if nothing changed since the last call.
        """
        wanted = tuple(sorted({slot for slot in slots if slot is not None}))
        if wanted == self._staged:
            return None
        used = sum(self._ranks[slot] for slot in wanted)
        rows = max(1, -(-used // _ROW_MULTIPLE)) * _ROW_MULTIPLE
        owners = np.repeat(np.array(wanted, np.int64), [self._ranks[slot] for slot in wanted])
        self._owners = np.concatenate([owners, np.full(rows - used, -2)])
        self._staged = wanted
        return {place: self._fill(place, wanted, rows) for place in self._stack}

    def mask(self, slots: Sequence[int | None], counts: npt.NDArray[np.int_]) -> Matrix:
        """The 0/1 mask [tokens, 1, rows] of the staged stack, for sequences of `counts` tokens each."""
        own = np.repeat([-1 if slot is None else slot for slot in slots], counts)
        mask: Matrix = (own[:, None] == self._owners).astype(np.float32)
        return mask[:, None, :]

    def _fill(self, place: Place, wanted: tuple[int, ...], rows: int) -> tuple[Matrix, Matrix]:
        a, b = (stack[:rows] for stack in self._stack[place])
        start = 0
        for slot in wanted:
            end = start + self._ranks[slot]
            if term := self._resident[slot].get(place):
                filled = start + len(term[0])
                a[start:filled], b[start:filled] = term
                start = filled
            a[start:end], b[start:end] = 0, 0
            start = end
        a[start:], b[start:] = 0, 0
        return a, b
