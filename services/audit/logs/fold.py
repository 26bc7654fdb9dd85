"""Moving entries from the journal into their logs' segments, a few logs at a time."""

from __future__ import annotations

from collections import deque

from services.audit.logs.open_logs import HELD, OpenLogs
from services.audit.logs.segments import SegmentDamagedError, fold_log
from services.audit.logs.tenant_log import LogDamagedError, TenantLog
from services.common.durable_files import remove_file

SLICE_BYTES = 1 << 20
"""What a batch may have to wait for: a few syncs, and this much to write."""


def is_changed(log: TenantLog) -> bool:
    """Whether a log has something that its folder has not."""
    return bool(log.pending) or log.checkpoint_note is not log.folded_note


class FoldPass:
    """One fold of everything that was in the journal when it began; what comes later may be folded along."""

    def __init__(self, logs: OpenLogs) -> None:
        self._logs = logs
        self._left = deque(log.folded.tenant_uid for log in logs if is_changed(log))

    @property
    def is_done(self) -> bool:
        """Whether the journal's files of before are not needed any more."""
        return not self._left

    def slice(self) -> None:
        """Do a part of it: one log, or its keyring first; a large log takes several slices."""
        if not self._left:
            return
        fold_some(self._logs, self._left[0])
        if not has_more(self._logs, self._left[0]):
            self._left.popleft()


def fold_some(logs: OpenLogs, tenant_uid: str) -> None:
    """Do a slice's part of one log. A log whose segments are damaged is given up, not the fold."""
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
    """Whether there is more of a log to fold; nothing of one that is given up."""
    try:
        log = logs.readable(tenant_uid)
    except LogDamagedError:
        return False
    return log is not None and is_changed(log)
