"""Says whether a log still holds the entry of a receipt. Reads segments beside the store, so that no batch waits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.audit.logs.folded_state import STATE, FoldedState
from services.audit.logs.segment_search import find_index
from services.audit.logs.segments import SegmentDamagedError
from services.audit.proofs.merkle import leaf_hash
from services.audit.storage.state_files import StateFileError


@dataclass(frozen=True, slots=True)
class LogView:
    """A log at one moment, as far as one receipt needs it."""

    tenant_uid: str
    folder: Path
    folded: FoldedState | None
    """None when the log is closed. Its file is read then."""
    pending_leaf: bytes | None
    """The leaf of the receipt's entry; None when the entry is folded or missing."""


def broken_receipt(view: LogView, index: int, leaf: bytes) -> str:
    """Why a log cannot be the one that gave a receipt; an empty text when it may be."""
    try:
        state = view.folded or FoldedState.read(view.folder / STATE)
        found = view.pending_leaf
        if found is None:
            entry = find_index(view.folder, state, index)
            found = leaf_hash(entry[0].encode()) if entry is not None else None
    except (SegmentDamagedError, StateFileError) as damage:
        return str(damage)
    if found is None:
        return f"it ends before entry {index}, of which a writer holds a receipt: it was rolled back or cut"
    if found != leaf:
        return f"entry {index} is another than the one a writer holds a receipt of: it was rolled back and went on"
    return ""
