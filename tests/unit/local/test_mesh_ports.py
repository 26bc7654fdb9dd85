"""The ports of a mesh: the same at every start, and said where they are not."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

import pytest

from services.common.command_errors import CommandError
from services.local import mesh_ports
from services.local.mesh_ports import PortChoice, any_ports, chosen_ports
from services.local.ports import ANY, LOOPBACK, PortTakenError, reserve
from tests.fakes.mutants import replaced

SERVICES = ["config", "audit", "router-1", "router-2"]


@pytest.fixture
def first():
    """The first of a row of free ports."""
    for _ in range(100):
        with ExitStack() as stack:
            start = reserve(stack, ANY)
            try:
                for port in range(start + 1, start + 20):
                    reserve(stack, port)
            except (PortTakenError, OverflowError):  # taken, or above the last port
                continue
            return start
    raise AssertionError("no twenty free ports in a row")


@pytest.fixture
def usual(first, monkeypatch):
    """The usual ports, where no other test's mesh is."""
    monkeypatch.setattr(mesh_ports, "USUAL_PORT", first)
    return first


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "ports.json"


def fixed(ports):
    return [ports.tenant, ports.operations, ports.triton_metrics, *(ports.metrics[name] for name in SERVICES)]


def taken(port):
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind((LOOPBACK, port))
    other.listen()
    return other


def test_the_usual_ports_follow_one_another(usual, memory):
    for _ in range(2):
        with chosen_ports(SERVICES, PortChoice(memory=memory)) as ports:
            assert fixed(ports) == list(range(usual, usual + 7))
            assert ports.moved == ()


def starts_where_it_was(module, memory, usual):
    """Whether a mesh that had to move is at the same ports at its next start, which need not move."""
    with taken(usual), module.chosen_ports(SERVICES, PortChoice(memory=memory)) as ports:
        before = fixed(ports)
    with module.chosen_ports(SERVICES, PortChoice(memory=memory)) as ports:
        return fixed(ports) == before and not ports.moved


def test_a_mesh_that_had_to_move_stays_where_it_moved(usual, memory):
    assert starts_where_it_was(mesh_ports, memory, usual)


def test_that_test_notices_ports_that_are_forgotten(usual, memory, monkeypatch):
    forgetful = replaced(mesh_ports, "_recalled", lambda path: {})
    monkeypatch.setattr(forgetful, "USUAL_PORT", usual)
    assert not starts_where_it_was(forgetful, memory, usual)


def test_a_taken_port_is_replaced_by_the_next_and_its_holder_named(usual, memory):
    with taken(usual + 1), chosen_ports(SERVICES, PortChoice(memory=memory)) as ports:
        assert ports.tenant == usual
        assert ports.operations == usual + 2
        (moved,) = [item for item in ports.moved if item.name == "operations"]
        assert (moved.wanted, moved.taken) == (usual + 1, usual + 2)
        assert f"(pid {os.getpid()})" in moved.holder
        assert len(set(fixed(ports))) == 7


def test_two_meshes_at_once_get_ports_of_their_own(usual, tmp_path):
    with (
        chosen_ports(SERVICES, PortChoice(memory=tmp_path / "one")) as one,
        chosen_ports(SERVICES, PortChoice(memory=tmp_path / "two")) as other,
    ):
        assert not set(fixed(one)) & set(fixed(other))


def test_a_port_that_was_asked_for_is_taken_or_the_start_fails(first, memory):
    with chosen_ports(SERVICES, PortChoice(first, memory)) as ports:
        assert fixed(ports) == list(range(first, first + 7))
    for port in (first, first + 1):
        with (
            taken(port),
            pytest.raises(CommandError, match=rf"port {port} is taken by .+ \(pid {os.getpid()}\)"),
            chosen_ports(SERVICES, PortChoice(first, memory)),
        ):
            pass
    # It is where the mesh is from now on.
    with chosen_ports(SERVICES, PortChoice(memory=memory)) as ports:
        assert ports.tenant == first


def test_metrics_give_way_where_a_port_was_asked_for(first, memory):
    with taken(first + 3), chosen_ports(SERVICES, PortChoice(first, memory)) as ports:
        assert ports.tenant == first
        assert [item.wanted for item in ports.moved] == [first + 3]


def test_more_routers_keep_the_others_where_they_were(usual, memory):
    with chosen_ports(["config", "audit", "router"], PortChoice(memory=memory)) as ports:
        config = ports.metrics["config"]
    with chosen_ports(SERVICES, PortChoice(memory=memory)) as ports:
        assert ports.metrics["config"] == config
        assert ports.moved == ()


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", '{"ports": {"tenant": 70000}}', '{"ports": {"tenant": "x"}}']
)
def test_a_damaged_memory_means_the_usual_ports(usual, memory, damaged):
    memory.write_text(damaged)
    with chosen_ports(SERVICES, PortChoice(memory=memory)) as ports:
        assert ports.tenant == usual


def test_a_mesh_that_is_not_kept_remembers_nothing(first, tmp_path):
    with chosen_ports(SERVICES, PortChoice(first)):
        pass
    with any_ports(SERVICES) as ports:
        assert len(set(fixed(ports))) == 7
    assert list(tmp_path.iterdir()) == []
