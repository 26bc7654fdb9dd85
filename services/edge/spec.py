"""Everything the edge's config depends on, for any host. A spec that exists is consistent."""

from __future__ import annotations

import ipaddress
import json
from collections import Counter
from dataclasses import field
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from services.common.rpc.targets import is_local
from services.edge.addresses import parse_address

STDOUT = "stdout"
_PEM = "-----BEGIN "
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _invalid(text: str, part: str = "") -> PydanticCustomError:
    """A violation; `part` is a path below the value that is being checked."""
    return PydanticCustomError("spec", "{text}", {"text": text, "part": part})


def _not_a_key(text: str) -> str:
    """Refuse a PEM where an address or a path belongs, without a word of it: it may be a private key."""
    if _PEM in text:  # proven: no-echo-of-a-pem
        raise _invalid("is a text in PEM form; put it under `inline` of a certificate or a key")
    return text


def _absolute(path: Path) -> Path:
    if not Path(_not_a_key(str(path))).is_absolute():
        # Not shown: it may be a secret that belongs under `inline`.
        raise _invalid("is not absolute: Envoy would look for it where it was started")
    return path


def _ip_address(text: str) -> str:
    _not_a_key(text)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise _invalid(
            f"{text!r} is not an IP address; 0.0.0.0 is every IPv4 address of the host, :: every address"
        ) from None
    return text


def _reachable(text: str) -> str:
    _not_a_key(text)
    try:
        parse_address(text)
    except ValueError as error:
        raise _invalid(str(error)) from None
    return text


def _private(text: str) -> str:
    if not is_local(_reachable(text)):
        raise _invalid(
            f"{text} can be reached from other hosts, and Envoy's admin interface asks for no key: "
            "give a unix: path or a loopback port"
        )
    return text


def _log_file(text: str) -> str:
    if text != STDOUT:
        _absolute(Path(text))
    return text


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise _invalid("is empty")
    return values


Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


@dataclass(frozen=True, slots=True, config=_STRICT)
class EdgeLimits:
    """Bounds on what the edge holds, and for how long. Coarse: the router applies each tenant's own limits."""

    tenant_connections: Count = 10_000
    """Also bounds connections that have not shown a key yet."""
    operations_connections: Count = 1_000
    """Counted apart: a full tenant listener does not lock operators out."""
    handshake_seconds: Seconds = 5.0
    """From a connection's start to the end of its TLS handshake; 0.5 s while the tenant listener is half full."""
    idle_connection_seconds: Seconds = 300.0
    """Without a request; a second while the tenant listener is half full."""
    tenant_request_seconds: Seconds = 20.0
    """From a request's first byte to its last: a mebibyte at 70 kB/s."""
    operations_request_seconds: Seconds = 600.0
    """The same for operators, who upload adapters."""
    principal_requests_per_second: Count = 500
    """Of one tenant, operator or reviewer, with as much again at once."""
    keyless_requests_per_second: Count = 1_000
    """Of all callers without a key together, at each listener."""
    logged_refusals_per_second: Count = 50
    """Refusals of one key holder, or of all without a verified key, beyond it are logged once in a hundred.

    Counted by each listener and worker thread for itself. Answers are always logged.
    """
    heap_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 1 << 30
    """At 90 % of it Envoy gives memory back, at 95 % it refuses requests and connections."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class Source:
    """A text: in a file of Envoy's host, which Envoy reads at its start, or inline in the bootstrap."""

    file: AbsolutePath | None = None
    inline: Annotated[str, StringConstraints(min_length=1)] | None = field(default=None, repr=False)

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.file is None) == (self.inline is None):
            raise _invalid("takes either `file` or `inline`")
        return self


def _pem(source: Source) -> Source:
    if source.inline is not None and not source.inline.lstrip().startswith(_PEM):
        raise _invalid("is not PEM: it has no line -----BEGIN ...-----", "inline")
    return source


def _key_set(source: Source) -> Source:
    if source.inline is not None:
        try:
            keys = json.loads(source.inline)["keys"]
        except (ValueError, TypeError, KeyError, RecursionError):
            keys = None
        if not isinstance(keys, list):
            raise _invalid("is not a JWK set: a JSON object with a list `keys` (RFC 7517)", "inline")
    return source


Pem = Annotated[Source, AfterValidator(_pem)]
KeySet = Annotated[Source, AfterValidator(_key_set)]


@dataclass(frozen=True, slots=True, config=_STRICT)
class TlsListener:
    """Where a listener binds, and the certificate it shows."""

    port: Annotated[int, Field(ge=1, le=65_535)]
    certificate: Pem
    """The chain, leaf first."""
    private_key: Pem
    address: Annotated[str, AfterValidator(_ip_address)] = "127.0.0.1"


@dataclass(frozen=True, slots=True, config=_STRICT)
class Listeners:
    """The edge's two listeners: callers of models, and operators with reviewers."""

    tenant: TlsListener
    operations: TlsListener

    @model_validator(mode="after")
    def _apart(self) -> Self:
        one, other = self.tenant, self.operations
        every = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
        if one.port == other.port and (one.address == other.address or every & {one.address, other.address}):
            raise _invalid(
                f"{one.port} is also the tenant listener's port; each needs its own", "operations.port"
            )
        return self


@dataclass(frozen=True, slots=True, config=_STRICT)
class UpstreamTls:
    """Mutual TLS towards a service."""

    ca: Pem
    """Signs the service's certificate."""
    certificate: Pem
    """Envoy's own, as the service's client."""
    private_key: Pem
    server_names: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1)], ...], AfterValidator(_not_empty)
    ]
    """Subject alternative names, one of which the service's certificate has to hold.

    With a scheme, as in `spiffe://`, a URI; else an IP address or a DNS name. Any certificate of the CA would
    otherwise do, another service's included.
    """


@dataclass(frozen=True, slots=True, config=_STRICT)
class Upstream:
    """A service behind the edge: the processes that take turns, all reached in the same way."""

    endpoints: Annotated[tuple[Annotated[str, AfterValidator(_reachable)], ...], AfterValidator(_not_empty)]
    """Each `unix:/path` or `host:port`; all addresses of a host name are used."""
    tls: UpstreamTls | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = [target for target, times in Counter(self.endpoints).items() if times > 1]
        if twice:
            raise _invalid(f"{twice[0]} is there twice", "endpoints")
        addresses = [parse_address(target) for target in self.endpoints]
        names = [target for target, at in zip(self.endpoints, addresses, strict=True) if at.is_host_name]
        if names and any(at.path for at in addresses):
            raise _invalid(
                f"{names[0]} is a host name; Envoy does not mix those with unix: paths", "endpoints"
            )
        far = [target for target in self.endpoints if not is_local(target)]
        if far and self.tls is None:
            raise _invalid(f"is missing: {far[0]} leaves this host, which takes mutual TLS", "tls")
        return self


@dataclass(frozen=True, slots=True, config=_STRICT)
class Upstreams:
    """The services behind the edge."""

    router: Upstream
    config: Upstream
    """Its admin API."""
    audit: Upstream
    """Its review API."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class KeySets:
    """Public keys (RFC 7517) that sign callers' keys; Envoy reads them at its start."""

    config: KeySet
    """The config service's: callers and operators."""
    audit: KeySet
    """The audit service's: reviewers."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class EdgeSpec:
    """One Envoy with two TLS listeners.

    Raises:
        pydantic.ValidationError: a field is out of its bounds, or fields contradict each other.
    """

    listeners: Listeners
    upstreams: Upstreams
    jwks: KeySets
    admin: Annotated[str, AfterValidator(_private)]
    """Envoy's admin interface: `unix:/path`, made with mode 0600, or a loopback port."""
    access_log: Annotated[str, AfterValidator(_log_file)] = STDOUT
    """An absolute path, or `stdout`."""
    limits: EdgeLimits = field(default_factory=EdgeLimits)
    node_id: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "edge"
    """Names this Envoy in its own logs and admin interface."""

    @model_validator(mode="after")
    def _admin_apart(self) -> Self:
        port = parse_address(self.admin).port
        if port in {self.listeners.tenant.port, self.listeners.operations.port}:
            raise _invalid(f"{port} is also a listener's port; each needs its own", "admin")
        return self


def source_of(value: Path | str) -> Source:
    """A path as a file, a text as inline."""
    return Source(file=value) if isinstance(value, Path) else Source(inline=value)
