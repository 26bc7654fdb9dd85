"""The one tree of errors that a tenantry process shows to callers.

Error:
    ├── InvalidArgumentError       fields are wrong; it names every one of them
    ├── UnauthenticatedError       the caller is not known
    ├── PermissionDeniedError      the caller is known and may not do this
    ├── NotFoundError              missing, or another tenant's: the two look the same
    ├── AlreadyExistsError         the name is taken
    ├── AbortedError               the resource changed since it was read
    ├── FailedPreconditionError    the resource's state forbids it
    ├── ResourceExhaustedError     a limit is reached
    ├── UnavailableError           try again later
    ├── DeadlineExceededError      the deadline passed first
    ├── UnimplementedError         no such method
    └── InternalError              our fault; says nothing of its cause

Callers branch on `Reason`, never on text (AIP-193). The tree knows nothing of gRPC: `rpc/status.py` translates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

DOMAIN = "tenantry"
# The message spells out this many violations; the details name all.
_SPELLED_OUT = 5


class Code(IntEnum):
    """The codes of `google.rpc.Code` that tenantry uses."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Reason(StrEnum):
    """Every reason that an `ErrorInfo` of the domain `tenantry` may carry. docs/errors.md says what to do."""

    INVALID_FIELD = "INVALID_FIELD"
    KEY_REFUSED = "KEY_REFUSED"
    ROLE_FORBIDS = "ROLE_FORBIDS"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    ADAPTER_NOT_FOUND = "ADAPTER_NOT_FOUND"
    RESOURCE_EXISTS = "RESOURCE_EXISTS"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    CONCURRENT_CHANGE = "CONCURRENT_CHANGE"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    GUARDRAIL_DENIED = "GUARDRAIL_DENIED"
    GUARDRAIL_UNUSABLE = "GUARDRAIL_UNUSABLE"
    RESOURCE_IN_USE = "RESOURCE_IN_USE"
    RECORD_CONFLICT = "RECORD_CONFLICT"
    RATE_LIMITED = "RATE_LIMITED"
    CONCURRENCY_LIMITED = "CONCURRENCY_LIMITED"
    QUEUE_FULL = "QUEUE_FULL"
    SERVER_BUSY = "SERVER_BUSY"
    QUOTA_EXHAUSTED = "QUOTA_EXHAUSTED"
    IDS_EXHAUSTED = "IDS_EXHAUSTED"
    NO_SNAPSHOT = "NO_SNAPSHOT"
    CONFIG_STALE = "CONFIG_STALE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    NO_READY_ENDPOINT = "NO_READY_ENDPOINT"
    MODEL_UNUSABLE = "MODEL_UNUSABLE"
    MODEL_SERVER_FAILED = "MODEL_SERVER_FAILED"
    ADAPTERS_BUSY = "ADAPTERS_BUSY"
    QUOTA_UNAVAILABLE = "QUOTA_UNAVAILABLE"
    FLOW_UNAVAILABLE = "FLOW_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    CANCELLED_BY_CALLER = "CANCELLED_BY_CALLER"
    LOG_DAMAGED = "LOG_DAMAGED"
    METHOD_NOT_FOUND = "METHOD_NOT_FOUND"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field."""

    field: str
    """The path from the root of the request, for example `tenant.config.models[2].alias`."""
    description: str
    """The problem, with the limit and the actual value if there are any. Never text of a tenant."""


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One exhausted limit."""

    subject: str
    """The owner of the limit, for example `tenants/acme`."""
    description: str
    """The limit, with its value."""


class Error(Exception):
    """Base of all errors shown to callers: a code, a reason, and the data that a program needs to react.

    `message` and `metadata` are shown as they are. They never hold text from Triton, etcd or Python, nor names of
    another tenant.
    """

    code = Code.INTERNAL
    default_reason = Reason.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds
        self.request_id = ""
        """The request's id in logs and audit entries; empty where the answer carries none."""


class InvalidArgumentError(Error):
    """Fields are wrong. `violations` names every one of them."""

    code = Code.INVALID_ARGUMENT
    default_reason = Reason.INVALID_FIELD

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        *,
        reason: Reason | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        first = violations[:_SPELLED_OUT]
        named = "; ".join(f"{violation.field}: {violation.description}" for violation in first)
        if len(violations) > len(first):
            named += f"; and {len(violations) - len(first)} more"
        super().__init__(named or "the request is invalid", reason=reason, metadata=metadata)
        self.violations = tuple(violations)


class UnauthenticatedError(Error):
    """The caller is not known.

    Causes that depend on stored keys or on a token's content share the default text, which reveals none of them.
    Another text may only describe the form of the header that was sent.
    """

    code = Code.UNAUTHENTICATED
    default_reason = Reason.KEY_REFUSED

    def __init__(
        self, message: str = "the key is missing, malformed, expired, revoked or not for this listener"
    ) -> None:
        super().__init__(message)


class PermissionDeniedError(Error):
    """The caller is known and may not do this."""

    code = Code.PERMISSION_DENIED
    default_reason = Reason.ROLE_FORBIDS


class NotFoundError(Error):
    """Missing, or another tenant's. The message never repeats the name, so that both give the same bytes."""

    code = Code.NOT_FOUND
    default_reason = Reason.RESOURCE_NOT_FOUND


class AlreadyExistsError(Error):
    """The name is taken."""

    code = Code.ALREADY_EXISTS
    default_reason = Reason.RESOURCE_EXISTS


class AbortedError(Error):
    """The resource changed since it was read: read again, decide again, write again."""

    code = Code.ABORTED
    default_reason = Reason.ETAG_MISMATCH


class FailedPreconditionError(Error):
    """The resource's state forbids it."""

    code = Code.FAILED_PRECONDITION
    default_reason = Reason.RESOURCE_IN_USE


class ResourceExhaustedError(Error):
    """A limit is reached. `violations` names it."""

    code = Code.RESOURCE_EXHAUSTED
    default_reason = Reason.RATE_LIMITED

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[QuotaViolation] = (),
        reason: Reason | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata, retry_after_seconds=retry_after_seconds)
        self.violations = tuple(violations)


class UnavailableError(Error):
    """A part that the request needs is down or not ready. Carries a retry delay."""

    code = Code.UNAVAILABLE
    default_reason = Reason.NO_READY_ENDPOINT

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float = 1.0,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata, retry_after_seconds=retry_after_seconds)


class DeadlineExceededError(Error):
    """The deadline passed first."""

    code = Code.DEADLINE_EXCEEDED
    default_reason = Reason.DEADLINE_PASSED


class UnimplementedError(Error):
    """The listener has no such method."""

    code = Code.UNIMPLEMENTED
    default_reason = Reason.METHOD_NOT_FOUND


class InternalError(Error):
    """A fault of tenantry. The cause is only in the log."""

    code = Code.INTERNAL
    default_reason = Reason.INTERNAL

    def __init__(self, message: str = "internal error") -> None:
        super().__init__(message)
