"""The list of logs, `logs/tenants.json`: which logs each tenant has, the newest last. Only the newest is open.

A log never passes to another tenant and never has two writers. When one cannot be continued, its tenant gets another
log that names it as its predecessor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from services.audit.proofs.entry import ID_BYTES, NO_ID
from services.audit.storage.state_files import STATE_VERSION, StateFileError, read_state_file
from services.common.durable_files import replace_file


class LogRegistry:
    """The file's content. A change is durable when the call returns.

    Raises:
        StateFileError: the file is damaged, or of an unknown version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._logs = _parse(path) if path.exists() else {}
        self._owners = {logs[-1]: tenant_uid for tenant_uid, logs in self._logs.items()}

    def tenant_uids(self) -> list[str]:
        """Every tenant that has a log."""
        return sorted(self._logs)

    def open_log(self, tenant_uid: str) -> bytes | None:
        """The id of the log that a tenant's entries go to; None when it has none."""
        logs = self._logs.get(tenant_uid)
        return logs[-1] if logs else None

    def predecessor(self, tenant_uid: str) -> bytes:
        """The id of the log before the open one; zeros for none."""
        logs = self._logs.get(tenant_uid, [])
        return logs[-2] if len(logs) > 1 else NO_ID

    def owner(self, log_id: bytes) -> str | None:
        """The tenant_uid whose open log it is; None for a closed or unknown log."""
        return self._owners.get(log_id)

    def is_known(self, log_id: str) -> bool:
        """Whether an id in hex is that of a log, open or closed."""
        return self.owner_of(log_id) is not None or any(
            log_id == one.hex() for logs in self._logs.values() for one in logs
        )

    def owner_of(self, log_id: str) -> str | None:
        """As `owner`, for an id in hex as receipts have it; None also for a text that is not hex."""
        try:
            return self.owner(bytes.fromhex(log_id))
        except ValueError:
            return None

    def add(self, log_ids: Mapping[str, bytes]) -> None:
        """Add new logs by tenant_uid. The tenants' logs before them are closed."""
        for tenant_uid, log_id in log_ids.items():
            closed = self.open_log(tenant_uid)
            if closed is not None:
                del self._owners[closed]
            self._logs.setdefault(tenant_uid, []).append(log_id)
            self._owners[log_id] = tenant_uid
        self.save()

    def save(self) -> None:
        """Write the file."""
        document = {
            "version": STATE_VERSION,
            "tenants": {
                tenant_uid: [{"log_id": log_id.hex()} for log_id in logs]
                for tenant_uid, logs in self._logs.items()
            },
        }
        replace_file(self._path, json.dumps(document, indent=1).encode())


def _parse(path: Path) -> dict[str, list[bytes]]:
    document = read_state_file(path)
    try:
        found = {
            str(tenant_uid): [bytes.fromhex(log["log_id"]) for log in logs]
            for tenant_uid, logs in document["tenants"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StateFileError(f"{path.name} is damaged") from None
    known = [log_id for logs in found.values() for log_id in logs]
    if not all(found.values()) or len(set(known)) != len(known) or any(len(one) != ID_BYTES for one in known):
        raise StateFileError(f"{path.name} is damaged")
    return found
