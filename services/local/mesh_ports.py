"""Chooses the ports of one mesh: the usual ones where free, and the same at every start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.common.command_errors import CommandError
from services.common.durable_files import replace_file
from services.local.ports import ANY, PortTakenError, holder, reserve

USUAL_PORT = 8443
HIGHEST_FIRST_PORT = 65_000
_TRIES = 200
_TENANT, _OPERATIONS, _TRITON_METRICS = "tenant", "operations", "triton metrics"


@dataclass(frozen=True, slots=True)
class MovedPort:
    """A port that another program has, and the one taken in its place."""

    name: str
    wanted: int
    taken: int
    holder: str
    """`name (pid)`; empty where it is not known."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of one run."""

    tenant: int
    operations: int
    etcd_client: int
    etcd_peer: int
    triton_grpc: int
    triton_http: int
    triton_metrics: int
    metrics: Mapping[str, int]
    """Prometheus ports of our own services, by process."""
    moved: tuple[MovedPort, ...] = ()
    """Those that are not where they were wanted."""


@dataclass(frozen=True, slots=True)
class PortChoice:
    """The ports that a mesh wants."""

    first: int | None = None
    """The tenants' port; the operators' is the next, metrics follow. Taken ones fail the start.

    None for those of the start before, or else from `USUAL_PORT` on; taken ones are replaced.
    """
    memory: Path | None = None
    """The file that remembers the ports; None for a mesh that is not kept."""


class _Remembered(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    ports: dict[str, Annotated[int, Field(ge=1, le=65_535)]]


@contextmanager
def any_ports(services: Sequence[str]) -> Iterator[Ports]:
    """Ports that the operating system chooses, for a mesh of a test or of one run."""
    names = _names(services)
    with ExitStack() as stack:
        yield _ports(stack, {name: reserve(stack, ANY) for name in names}, services, ())


@contextmanager
def chosen_ports(services: Sequence[str], choice: PortChoice) -> Iterator[Ports]:
    """Ports held for one run, and remembered for the next.

    Args:
        services: our own processes, which serve metrics.
        choice: the ports wanted.

    Raises:
        CommandError: a port that was asked for is taken, or no port near is free.
    """
    remembered = _recalled(choice.memory) if choice.first is None else {}
    first = choice.first or remembered.get(_TENANT, USUAL_PORT)
    fixed: dict[str, int] = {}
    moved: list[MovedPort] = []
    with ExitStack() as stack:
        for offset, name in enumerate(_names(services)):
            wanted = remembered.get(name, first + offset)
            must = choice.first is not None and name in (_TENANT, _OPERATIONS)
            port = fixed[name] = _taken(stack, name, wanted) if must else _next_free(stack, wanted, fixed)
            if port != wanted and wanted not in fixed.values():
                moved.append(MovedPort(name, wanted, port, holder(wanted)))
        if choice.memory is not None:
            kept = _Remembered(ports=_recalled(choice.memory) | fixed)
            replace_file(choice.memory, kept.model_dump_json(indent=1).encode())
        yield _ports(stack, fixed, services, tuple(moved))


def _names(services: Sequence[str]) -> list[str]:
    """Uses of fixed ports, in the order of the usual numbers; `services` has the routers last."""
    return [_TENANT, _OPERATIONS, _TRITON_METRICS, *(f"{name} metrics" for name in services)]


def _ports(
    stack: ExitStack, fixed: Mapping[str, int], services: Sequence[str], moved: tuple[MovedPort, ...]
) -> Ports:
    return Ports(
        tenant=fixed[_TENANT],
        operations=fixed[_OPERATIONS],
        etcd_client=reserve(stack, ANY),
        etcd_peer=reserve(stack, ANY),
        triton_grpc=reserve(stack, ANY),
        triton_http=reserve(stack, ANY),
        triton_metrics=fixed[_TRITON_METRICS],
        metrics={name: fixed[f"{name} metrics"] for name in services},
        moved=moved,
    )


def _taken(stack: ExitStack, name: str, port: int) -> int:
    try:
        return reserve(stack, port)
    except PortTakenError:
        by = holder(port)
        whose = f" by {by}" if by else " by another program"
        raise CommandError(
            f"the {name} port {port} is taken{whose}.",
            "Give --port another number, or end that program. Without --port the next free ports are used.",
        ) from None


def _next_free(stack: ExitStack, wanted: int, fixed: Mapping[str, int]) -> int:
    for port in range(wanted, min(wanted + _TRIES, 65_536)):
        if port in fixed.values():
            continue
        try:
            return reserve(stack, port)
        except PortTakenError:
            continue
    raise CommandError(
        f"no port from {wanted} to {wanted + _TRIES - 1} is free.", "Give --port another number."
    )


def _recalled(memory: Path | None) -> dict[str, int]:
    """The ports of the start before; none where they cannot be read, since the usual ones do as well."""
    if memory is None:
        return {}
    try:
        return _Remembered.model_validate_json(memory.read_bytes()).ports
    except (OSError, ValidationError):
        return {}
