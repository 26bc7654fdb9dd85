"""Open logs and quarantined logs. A damage of one log affects its tenant alone.

    keyring/<log_id>   logs/tenants.json   logs/<log_id>/{state.json,checkpoint,segments/,held.seg}

`held.seg` keeps entries of a quarantined log that are in the journal and not in its segments. The journal's files are
removed; the entries stay there until the log can be opened again.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from services.audit.keys.keyset import Keyset
from services.audit.keys.root import KeyProvider
from services.audit.keys.wrap import KeysetError
from services.audit.logs.folded_state import STATE, FoldedState
from services.audit.logs.log_registry import LogRegistry
from services.audit.logs.segments import SegmentDamagedError, check_end
from services.audit.logs.tenant_log import LogDamagedError, TenantLog
from services.audit.proofs.entry import ID_BYTES
from services.audit.storage.frames import PLACE_BYTES, FrameError, Place, decode_frame
from services.common.durable_files import (
    make_directory,
    remove_scratch_files,
    replace_file,
    sync_directory,
)

_log = logging.getLogger(__name__)
MAX_OPEN_LOGS = 4096
HELD = "held.seg"


def begin_log(root: Path, tenant_uid: str, log_id: bytes, provider: KeyProvider) -> None:
    """Make a log's files, durably. The log exists once `LogRegistry` names it, and needs all of them."""
    Keyset.create(root / "keyring" / log_id.hex(), tenant_uid, log_id, provider)
    folder = root / "logs" / log_id.hex()
    (folder / "segments").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    # This syncs the names in the folder. The caller syncs `logs` before it registers the log.
    replace_file(folder / STATE, FoldedState(tenant_uid, log_id).encode())


def origin_of(log_id: bytes) -> str:
    """The origin line of a log's checkpoints."""
    return f"tenantry/audit/{log_id.hex()}"


class OpenLogs:
    """Opens, begins, closes and quarantines logs. Single-threaded, but for `is_open` and `opening_cost`."""

    def __init__(self, root: Path, registry: LogRegistry, provider: KeyProvider) -> None:
        self.registry = registry
        self._root = root
        self._provider = provider
        self._open: OrderedDict[str, TenantLog] = OrderedDict()
        self._quarantined: dict[str, str] = {}
        self._no_new_logs = ""

    def __iter__(self) -> Iterator[TenantLog]:
        """The open logs."""
        return iter(list(self._open.values()))

    @property
    def quarantined(self) -> int:
        """How many logs are quarantined."""
        return len(self._quarantined)

    def is_open(self, tenant_uid: str) -> bool:
        """Whether an entry of this tenant can be appended or refused without reading or making files."""
        return tenant_uid in self._open or tenant_uid in self._quarantined

    def opening_cost(self, tenant_uid: str) -> int:
        """The cost of opening before an entry of this tenant: 0 for none, 1 for reading, 8 for syncs of new files."""
        if self.is_open(tenant_uid):
            return 0
        return 1 if self.registry.open_log(tenant_uid) is not None else 8

    def folder(self, log_id: bytes) -> Path:
        """The folder of a log."""
        return self._root / "logs" / log_id.hex()

    def readable(self, tenant_uid: str) -> TenantLog | None:
        """A tenant's log, opened on first use; None when the tenant has none.

        Raises:
            LogDamagedError: it cannot be opened.
        """
        log = self._open.get(tenant_uid)
        if log is not None:
            self._open.move_to_end(tenant_uid)
            return log
        if tenant_uid in self._quarantined:
            raise LogDamagedError(tenant_uid, self._quarantined[tenant_uid])
        log_id = self.registry.open_log(tenant_uid)
        if log_id is None:
            return None
        try:
            log = self._opened(tenant_uid, log_id)
        except LogDamagedError as error:
            self.quarantine(tenant_uid, f"{HELD}: {error.why}")
            raise
        except (KeysetError, SegmentDamagedError, FrameError, ValueError, OSError) as error:
            self.quarantine(tenant_uid, str(error))
            raise LogDamagedError(tenant_uid, self._quarantined[tenant_uid]) from None
        self._open[tenant_uid] = log
        return log

    def writable(self, tenant_uid: str) -> TenantLog:
        """The log that a tenant's entries go to. `begin` has to come before.

        Raises:
            LogDamagedError: it is quarantined, or no new logs are begun.
        """
        if tenant_uid in self._quarantined:
            raise LogDamagedError(tenant_uid, self._quarantined[tenant_uid])
        log = self.readable(tenant_uid)
        if log is None:
            raise LogDamagedError(tenant_uid, self._no_new_logs)
        return log

    def begin(self, tenant_uids: Iterable[str]) -> None:
        """Begin logs for those of the tenants that have none."""
        new = {uid: os.urandom(ID_BYTES) for uid in tenant_uids if self.registry.open_log(uid) is None}
        if not new or self._no_new_logs:
            return
        for tenant_uid, log_id in new.items():
            begin_log(self._root, tenant_uid, log_id, self._provider)
        sync_directory(self._root / "logs")
        self.registry.add(new)

    def begin_no_more(self, why: str) -> None:
        """Begin no new logs from now on, because the list of logs cannot be relied on."""
        _log.error("no new logs are begun: %s", why)
        self._no_new_logs = why

    def quarantine(self, tenant_uid: str, why: str) -> None:
        """Append nothing more to a tenant's log until the next start. Logs the reason once."""
        if tenant_uid not in self._quarantined:
            log_id = self.registry.open_log(tenant_uid)
            named = f"logs/{log_id.hex()}: {why}" if log_id is not None else why
            _log.error("the log of %s is quarantined: %s", tenant_uid, named)
            self._quarantined[tenant_uid] = named

    def give_up(self, tenant_uid: str, why: str) -> None:
        """Quarantine an open log whose files are damaged, and hold its pending entries."""
        self.quarantine(tenant_uid, why)
        log = self._open.pop(tenant_uid, None)
        if log is not None:
            self.hold(log.log_id, [pending.placed for pending in log.pending])

    def hold(self, log_id: bytes, placed: Sequence[bytes]) -> None:
        """Keep entries of a log that cannot be opened, durably, as place and frame."""
        if placed:
            path = self.folder(log_id) / HELD
            make_directory(path.parent)
            replace_file(path, (path.read_bytes() if path.exists() else b"") + b"".join(placed))

    def close_idle(self, busy: Collection[str], changed: Callable[[TenantLog], bool]) -> None:
        """Close the least recently used logs when too many are open, but none with something left to write."""
        for tenant_uid, log in list(self._open.items()):
            if len(self._open) <= MAX_OPEN_LOGS:
                break
            if tenant_uid not in busy and not changed(log):
                del self._open[tenant_uid]

    def _opened(self, tenant_uid: str, log_id: bytes) -> TenantLog:
        folder = self.folder(log_id)
        keyset = Keyset.load(self._root / "keyring" / log_id.hex(), self._provider)
        state = FoldedState.read(folder / STATE)
        if (state.tenant_uid, state.log_id) != (tenant_uid, log_id):
            raise ValueError(f"{STATE} is another log's")
        remove_scratch_files(folder)
        check_end(folder, state)
        log = TenantLog(state, origin_of(log_id), keyset, os.urandom, self.registry.predecessor(tenant_uid))
        if (folder / "checkpoint").exists():
            log.checkpoint_note = log.folded_note = (folder / "checkpoint").read_bytes()
        if (folder / HELD).exists():
            _take_held(log, (folder / HELD).read_bytes())
        return log


def _take_held(log: TenantLog, data: bytes) -> None:
    """Give a log that opens again the entries held for it. Folding them removes the file."""
    offset = 0
    while offset < len(data):
        place = Place.decode(data[offset : offset + PLACE_BYTES])
        frame = decode_frame(data, offset + PLACE_BYTES, place)
        end = offset + PLACE_BYTES + frame.size_bytes
        log.replay(data[offset:end], frame)
        offset = end
