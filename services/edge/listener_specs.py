"""The only paths that exist at the edge, for each listener: whose keys open them, and which service answers."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.deadlines import MAX_TIMEOUT_SECONDS
from services.edge.spec import EdgeSpec, Source, TlsListener

HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"
INFERENCE = "/tenantry.inference.v1.InferenceService/"
ADMIN = "/tenantry.config.v1.ConfigAdminService/"
UPLOAD = ADMIN + "RegisterAdapter"
REVIEW = "/tenantry.audit.v1.AuditReviewService/"

MESSAGE_BYTES = 5 << 20
"""Held of an operator's or a reviewer's request.

Above the services' own limit of 4 MiB a message, so that their answer to a larger one reaches the caller.
"""
KEYLESS_BYTES = 1 << 10
"""Held of a request before a key was seen."""
_GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Issuer:
    """Signs the keys of one kind of caller."""

    name: str
    issuer: str
    audience: str
    jwks: Source


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One path of a listener and where it leads."""

    path: str
    """A prefix; with `exact` the whole path."""
    issuer: Issuer | None
    """Whose keys open it; None for callers without a key."""
    service: str
    """The cluster it leads to."""
    lasts_seconds: float | None
    """The longest a call may take, from its first byte to its last; a caller may ask for less.

    None where the service decides. Envoy hands this bound to the service as if it were the caller's deadline: a bound
    here would keep every tenant's default deadline from applying.
    """
    silent_seconds: float
    """The longest a call may go without a byte in either direction."""
    exact: bool = False
    whole_request_bytes: int | None = MESSAGE_BYTES
    """The service is asked once the whole request is here: a caller that sends slowly holds no place in it.

    None for calls that send while they are answered, for more than the edge should hold, and where the service bounds
    what each caller holds: Envoy then has a flow-control window of it.
    """


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """A listener: where it binds, its routes, and the most it holds."""

    name: str
    bind: TlsListener
    routes: tuple[RouteSpec, ...]
    connections: int
    request_seconds: float
    spared: bool
    """Open while the process is short of memory, and outside the count of all connections."""


def tenant_listener(spec: EdgeSpec) -> ListenerSpec:
    """Callers: inference, health. No reflection: its streams cost a service much and a caller nothing."""
    callers = Issuer("caller", "tenantry", "tenantry-inference", spec.jwks.config)
    # An answer in one piece may keep silent for as long as its tenant's deadline allows: the router ends it first.
    longest = MAX_TIMEOUT_SECONDS + _GRACE_SECONDS
    routes = (
        _health("router"),
        # Not held here: who may hold how much is known to the router, which has the tenants' limits.
        RouteSpec(
            INFERENCE,
            callers,
            "router",
            lasts_seconds=None,
            silent_seconds=longest,
            whole_request_bytes=None,
        ),
    )
    limits = spec.limits
    return ListenerSpec(
        "tenant",
        spec.listeners.tenant,
        routes,
        limits.tenant_connections,
        limits.tenant_request_seconds,
        spared=False,
    )


def operations_listener(spec: EdgeSpec) -> ListenerSpec:
    """Operators and reviewers, each with keys of their own kind."""
    operators = Issuer("operator", "tenantry", "tenantry-operator", spec.jwks.config)
    reviewers = Issuer("reviewer", "tenantry-audit", "tenantry-review", spec.jwks.audit)
    limits = spec.limits
    upload_seconds = limits.operations_request_seconds + _GRACE_SECONDS
    routes = (
        _health("config"),
        RouteSpec(
            UPLOAD,
            operators,
            "config",
            upload_seconds,
            silent_seconds=120.0,
            exact=True,
            whole_request_bytes=None,
        ),
        # `WaitForPropagation` keeps silent for up to 60 s.
        RouteSpec(ADMIN, operators, "config", lasts_seconds=120.0, silent_seconds=120.0),
        _reflection(operators, "config"),
        # A whole log, read at the reviewer's pace.
        RouteSpec(REVIEW, reviewers, "audit", lasts_seconds=3600.0, silent_seconds=300.0),
    )
    return ListenerSpec(
        "operations",
        spec.listeners.operations,
        routes,
        limits.operations_connections,
        limits.operations_request_seconds,
        spared=True,
    )


def _health(service: str) -> RouteSpec:
    """One question, one answer. Never `Watch`, with which callers without a key would hold places upstream."""
    return RouteSpec(
        HEALTH,
        None,
        service,
        lasts_seconds=2.0,
        silent_seconds=2.0,
        exact=True,
        whole_request_bytes=KEYLESS_BYTES,
    )


def _reflection(issuer: Issuer, service: str) -> RouteSpec:
    return RouteSpec(
        REFLECTION, issuer, service, lasts_seconds=60.0, silent_seconds=30.0, whole_request_bytes=None
    )
