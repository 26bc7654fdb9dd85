"""What may pass each door: the only paths that exist at the edge, whose keys open them, and where they lead."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.deadlines import MAX_TIMEOUT_SECONDS
from services.edge.spec import EdgeSpec

HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"
INFERENCE = "/tenantry.inference.v1.InferenceService/"
ADMIN = "/tenantry.config.v1.ConfigAdminService/"
UPLOAD = ADMIN + "RegisterAdapter"
REVIEW = "/tenantry.audit.v1.AuditReviewService/"

MESSAGE_BYTES = 5 << 20
"""Above the services' own limit of 4 MiB a message, so that their answer to a larger one reaches the caller."""
KEYLESS_BYTES = 1 << 10
"""What the edge holds of a request before it has seen a key."""
_GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs the keys that open something."""

    name: str
    issuer: str
    audience: str
    jwks: str


@dataclass(frozen=True, slots=True)
class Passage:
    """One way through a door."""

    path: str
    """A prefix; with `exact` the whole path."""
    issuer: Issuer | None
    """Whose keys open it; None for everybody."""
    service: str
    """The cluster it leads to."""
    lasts_seconds: float | None
    """The longest a call may take, from its first byte to its last; a caller may ask for less.

    None where the service decides. Envoy tells a service this bound as if it were the caller's deadline, so that with
    it no tenant's default deadline would ever apply.
    """
    silent_seconds: float
    """The longest nothing may happen in a call."""
    exact: bool = False
    whole_request_bytes: int | None = MESSAGE_BYTES
    """The service is asked once the whole request is here: a caller that sends slowly holds no place in it.

    None for calls that send while they are answered, or more than the edge should hold.
    """


@dataclass(frozen=True, slots=True)
class Door:
    """A listener: what passes, and what it holds at most."""

    name: str
    port: int
    passages: tuple[Passage, ...]
    connections: int
    request_seconds: float
    spared: bool
    """Open while the process is short of memory, and outside the count of all connections."""


def tenant_door(spec: EdgeSpec) -> Door:
    """Callers: inference, reflection, health; nothing else exists here."""
    callers = Issuer("caller", "tenantry", "tenantry-inference", spec.config_jwks)
    # An answer in one piece may keep silent for as long as its tenant's deadline allows: the router ends it first.
    longest = MAX_TIMEOUT_SECONDS + _GRACE_SECONDS
    passages = (
        _health("router"),
        Passage(INFERENCE, callers, "router", lasts_seconds=None, silent_seconds=longest),
        _reflection(callers, "router"),
    )
    limits = spec.limits
    return Door(
        "tenant",
        spec.tenant_port,
        passages,
        limits.tenant_connections,
        limits.tenant_request_seconds,
        spared=False,
    )


def operations_door(spec: EdgeSpec) -> Door:
    """Operators and reviewers, each with keys of their own kind."""
    operators = Issuer("operator", "tenantry", "tenantry-operator", spec.config_jwks)
    reviewers = Issuer("reviewer", "tenantry-audit", "tenantry-review", spec.audit_jwks)
    limits = spec.limits
    upload_seconds = limits.operations_request_seconds + _GRACE_SECONDS
    passages = (
        _health("config"),
        Passage(
            UPLOAD,
            operators,
            "config",
            upload_seconds,
            silent_seconds=120.0,
            exact=True,
            whole_request_bytes=None,
        ),
        # `WaitForPropagation` keeps silent for up to 60 s.
        Passage(ADMIN, operators, "config", lasts_seconds=120.0, silent_seconds=120.0),
        _reflection(operators, "config"),
        # A whole log, read at the reviewer's pace.
        Passage(REVIEW, reviewers, "audit", lasts_seconds=3600.0, silent_seconds=300.0),
    )
    return Door(
        "operations",
        spec.operations_port,
        passages,
        limits.operations_connections,
        limits.operations_request_seconds,
        spared=True,
    )


def _health(service: str) -> Passage:
    """One question, one answer. Never `Watch`, which would hold a place upstream for whoever asks, without a key."""
    return Passage(
        HEALTH,
        None,
        service,
        lasts_seconds=5.0,
        silent_seconds=5.0,
        exact=True,
        whole_request_bytes=KEYLESS_BYTES,
    )


def _reflection(issuer: Issuer, service: str) -> Passage:
    return Passage(
        REFLECTION, issuer, service, lasts_seconds=60.0, silent_seconds=30.0, whole_request_bytes=None
    )
