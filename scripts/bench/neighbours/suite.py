"""Runs every workload under every attack, first-come first-served and fair in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.bench.neighbours.figures import RunFigures, nearest_rank, tenant_figures
from scripts.bench.neighbours.mesh import PROBE, Mesh, Router, open_mesh
from scripts.bench.neighbours.open_loop import OpenLoop, until_idle
from scripts.bench.neighbours.workloads import WORKLOADS, Attack, TenantShape, Workload
from tests.fakes.scripted_triton.script import Batching


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    workloads: tuple[str, ...] = tuple(workload.name for workload in WORKLOADS)
    attacks: tuple[Attack, ...] = tuple(Attack)
    seconds: float = 20.0
    """Measured of each run."""
    patience_seconds: float = 10.0
    """For the victims' requests to end after that, under the same attack."""
    rounds: int = 1
    seed: int = 1
    """Of the first round; the next has the next."""
    speed: float = 2.0
    """The scripted engine's, as a multiple of the CPU twin's."""

    @property
    def batching(self) -> Batching:
        """The scripted engine's pace."""
        return Batching().faster(self.speed)


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload under one attack in one round: both disciplines get the same requests."""

    workload: Workload
    attack: Attack
    seed: int

    def uid(self, tenant: str) -> str:
        """The id of a tenant of this cell alone, so that no counter comes from an earlier one."""
        return f"{self.workload.name}-{self.attack.name.lower().replace('_', '-')}-{self.seed}-{tenant}"


def cells_of(plan: Plan) -> Iterator[Cell]:
    """Everything to run, round by round."""
    for number in range(plan.rounds):
        for workload in WORKLOADS:
            if workload.name in plan.workloads:
                yield from (Cell(workload, attack, plan.seed + number) for attack in plan.attacks)


async def run(folder: Path, plan: Plan, say: Callable[[str], object]) -> list[RunFigures]:
    """Start everything, run every cell, stop everything."""
    cells = list(cells_of(plan))
    tenants: list[TenantShape] = [PROBE]
    for cell in cells:
        tenants += [replace(tenant, name=cell.uid(tenant.name)) for tenant in cell.workload.tenants]
    figures = []
    async with open_mesh(folder, plan.batching, tenants) as mesh:
        for place, cell in enumerate(cells):
            # In turn, so that neither discipline always has the quieter machine.
            for router in mesh.routers if place % 2 == 0 else reversed(mesh.routers):
                say(f"{cell.workload.name}, attacker {cell.attack}, {router.discipline}, seed {cell.seed}")
                figures.append(await _run(mesh, router, cell, plan))
    return figures


async def _run(mesh: Mesh, router: Router, cell: Cell, plan: Plan) -> RunFigures:
    workload = cell.workload
    names = [tenant.name for tenant in workload.tenants]
    arrivals = workload.arrivals(cell.attack, plan.seconds + plan.patience_seconds, plan.batching, cell.seed)
    authorizations = {name: mesh.authorizations[cell.uid(name)] for name in names}
    load = OpenLoop(router.stub, authorizations, time.monotonic())
    sending = asyncio.create_task(load.send(arrivals))
    try:
        await asyncio.sleep(plan.seconds)
        victims = [name for name in names if name != workload.attacker]
        await load.settle(victims, plan.seconds, plan.patience_seconds)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await load.cancel()
    if not sending.cancelled():
        sending.result()
    await until_idle(router.stub, mesh.authorizations[PROBE.name])
    return RunFigures(
        workload.name,
        str(cell.attack),
        router.discipline,
        cell.seed,
        plan.seconds,
        tuple(tenant_figures(name, load.outcomes, plan.seconds) for name in names),
        nearest_rank(sorted(load.late_seconds), 0.99) * 1000,
    )
