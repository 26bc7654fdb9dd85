"""An entry for a tenant's audit log, and the receipt for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from services.common.errors import Reason, UnavailableError

RECORD_ID_BYTES = 16
OPERATOR_LOG_UID = "operators"
"""Names the operator audit log where a tenant's uid would stand. Tenants' uids are 16 hex digits."""


class EntryKind(IntEnum):
    """The kind of an entry. The numbers are those of `tenantry.audit.v1.EntryKind`."""

    ADMIT = 1
    OUTCOME = 2
    GAP = 4
    CONFIG_VERSION = 5
    ADMIN_INTENT = 6
    ADMIN_OUTCOME = 7
    REFUSED = 8


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry to append. Its three sections become canonical JSON (RFC 8785); bytes already are."""

    tenant_uid: str
    kind: EntryKind
    meta: Mapping[str, Any]
    prompt: Mapping[str, Any] | bytes | None = None
    answer: Mapping[str, Any] | None = None
    record_id: bytes = field(default_factory=lambda: os.urandom(RECORD_ID_BYTES))
    admit_record_id: bytes = b""
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class AuditReceipt:
    """Says where a durable entry stands."""

    log_id: str
    index: int
    leaf_hash: bytes


class AuditUnavailableError(UnavailableError):
    """The audit service is down, slow or too far behind, so the entry is not known to be durable.

    It may still become durable, but never twice.
    """

    default_reason = Reason.AUDIT_UNAVAILABLE
