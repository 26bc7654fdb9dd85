"""Generated histories of a mesh of routers: nothing is admitted beyond a limit, whatever dies and whenever.

Each history interleaves requests, single messages, the model server's steps, seconds, deaths of routers and of the flow
controller, and restarts. The simulated server sees what really runs.
"""

from __future__ import annotations

import random

import pytest

from services.router.flow import controller as controller_module
from services.router.flow import requests as requests_module
from services.router.flow.controller import FlowController
from services.router.flow.requests import Requests
from services.router.pool.demand import Cost
from tests.fakes.flow_mesh import FlowMesh
from tests.fakes.mutants import changed, without

HISTORIES = 1000
_NAMES = ("router-1", "router-2", "router-3")
_CALLERS = ("a", "b", "a/k1", "a/k2", "b/k1")
"""Tenants, and keys of theirs."""


async def history(seed: int, steps: int = 120) -> FlowMesh:
    mesh = FlowMesh(seed)
    choose = random.Random(seed)
    try:
        for name in _NAMES:
            mesh.start(name)
        await mesh.calm()
        for _ in range(steps):
            await one_step(mesh, choose)
    finally:
        await mesh.close()
    return mesh


def recovered(mesh: FlowMesh) -> bool:
    """Whether the mesh has come over the last death: two at once may take with them what only they knew."""
    named = mesh.naming.assignment()
    controller = None if named is None else mesh.routers[named.controller]
    if controller is None or not controller.alive or not controller.controller.serving:
        return False
    others = [router for router in mesh.routers.values() if router.alive and router is not controller]
    reached = all(router.requests.reached for router in others)
    return reached and controller.mirror.safe and controller.controller.settled


async def one_step(mesh: FlowMesh, choose: random.Random) -> None:
    mesh.connections = [one for one in mesh.connections if not one.broken]
    alive = [router for router in mesh.routers.values() if router.alive]
    kind = choose.random()
    if kind < 0.3 and alive:
        cost = Cost(choose.randint(1, 60), choose.randint(1, 60))
        choose.choice(alive).ask(choose.choice(_CALLERS), cost)
        await mesh.settle()
    elif kind < 0.65 and mesh.connections:
        for _ in range(choose.randint(1, 12)):
            await mesh.deliver(choose.choice(mesh.connections), up=choose.random() < 0.5)
    elif kind < 0.8:
        await mesh.serve()
    elif kind < 0.87:
        await mesh.tick(choose.choice((0.05, 0.3, 0.3, 1.0, 2.0, 6.0)))
    elif kind < 0.93:
        await mesh.tell()
        for router in alive:
            router.connect()
    elif kind < 0.96 and len(alive) > 1:
        named = mesh.naming.assignment()
        victim = choose.choice(alive).name if named is None or choose.random() < 0.5 else named.controller
        if mesh.routers[victim].alive and recovered(mesh):
            await mesh.kill(victim)
    else:
        dead = [router.name for router in mesh.routers.values() if not router.alive]
        if dead:
            mesh.start(choose.choice(dead))


@pytest.mark.parametrize("part", range(4))
async def test_no_history_admits_more_than_a_limit(part):
    answered = controllers = others = 0
    for seed in range(part, HISTORIES, 4):
        mesh = await history(seed)
        assert mesh.server.faults == set(), f"history {seed}"
        answered += mesh.answered
        controllers += mesh.controllers_killed
        others += mesh.others_killed
    # The histories are worth something: there is work, and deaths of both kinds.
    assert min(answered, controllers, others) > HISTORIES / 20


async def test_that_test_notices_what_a_dead_controller_used(monkeypatch):
    careless = without(controller_module, "a-dead-controllers-own-use")
    monkeypatch.setattr(FlowController, "_open_all", careless.FlowController._open_all)
    faults = [(await history(seed)).server.faults for seed in (100, 322, 339)]
    assert {"key_limits tokens a minute"} in faults
    assert any("limits tokens a minute" in found for found in faults)


async def test_that_test_notices_arrivals_that_no_controller_counts(monkeypatch):
    careless = changed(
        requests_module, "arrivals-count-once", "request.enter = replace(request.enter, counted=True)"
    )
    monkeypatch.setattr(Requests, "open", careless.Requests.open)
    assert (await history(720)).server.faults == {"key_limits rate"}
