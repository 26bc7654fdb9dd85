"""Folds: moves entries from the journal into the segments of their logs, a few logs at a time."""

from __future__ import annotations

from collections import deque

from services.audit.logs.open_logs import HELD, OpenLogs
from services.audit.logs.segments import SegmentDamagedError, fold_log
from services.audit.logs.tenant_log import LogDamagedError, TenantLog
from services.common.durable_files import remove_file

SLICE_BYTES = 1 << 20
"""About how many bytes a slice writes, since a batch may have to wait for it and a few syncs."""


def is_changed(log: TenantLog) -> bool:
    """Whether a log has entries or a checkpoint that are not in its folder yet."""
    return bool(log.pending) or log.checkpoint_note is not log.folded_note


class FoldPass:
    """One fold of everything that was in the journal when it began. Later entries may be folded with it."""

    def __init__(self, logs: OpenLogs) -> None:
        self._logs = logs
        self._left = deque(log.folded.tenant_uid for log in logs if is_changed(log))

    @property
    def is_done(self) -> bool:
        """Whether the journal files from before the fold are no longer needed."""
        return not self._left

    def slice(self) -> None:
        """Do the next part: one log, or its keyring first. A large log takes several slices."""
        if not self._left:
            return
        fold_some(self._logs, self._left[0])
        if not has_more(self._logs, self._left[0]):
            self._left.popleft()


def fold_some(logs: OpenLogs, tenant_uid: str) -> None:
    """Fold a slice of one log. A log whose segments are damaged is given up; the fold goes on."""
    try:
        log = logs.readable(tenant_uid)
    except LogDamagedError:
        return
    if log is None or not is_changed(log) or log.keyset.save():
        return
    folder = logs.folder(log.log_id)
    try:
        fold_log(folder, log, SLICE_BYTES)
    except SegmentDamagedError as damage:
        logs.give_up(tenant_uid, str(damage))
        return
    if not log.pending and (folder / HELD).exists():
        remove_file(folder / HELD)


def has_more(logs: OpenLogs, tenant_uid: str) -> bool:
    """Whether a log has more to fold. A log that was given up has not."""
    try:
        log = logs.readable(tenant_uid)
    except LogDamagedError:
        return False
    return log is not None and is_changed(log)
