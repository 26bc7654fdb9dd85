"""Ports of a run: held for those they are meant for, given to nobody else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.local.ports import ANY, LOOPBACK, PortTakenError, holder, reserved_ports


def listener(port, *, reuse=True):
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    try:
        taken.bind((LOOPBACK, port))
        taken.listen()
    except OSError:
        taken.close()
        raise
    return taken


def test_the_process_a_port_is_for_can_listen_again_and_again():
    with reserved_ports([ANY]) as [port]:
        for _ in range(2):
            with listener(port), socket.create_connection((LOOPBACK, port), 5):
                pass


def test_nobody_who_asks_for_any_port_gets_a_reserved_one():
    program = (
        "import socket\n"
        "for _ in range(40_000):\n"
        "    with socket.socket() as taken:\n"
        "        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "        taken.bind(('127.0.0.1', 0))\n"
        "        print(taken.getsockname()[1])\n"
    )
    with reserved_ports([ANY] * 500) as ports:
        given = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
        assert not set(ports) & {int(line) for line in given.stdout.split()}
    assert len(set(ports)) == 500


def test_a_port_another_program_listens_on_is_not_taken():
    with listener(ANY) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(port)), reserved_ports([port]):
            pass


def test_of_two_runs_that_want_the_same_port_before_either_listens_one_gets_it():
    with reserved_ports([ANY]) as [port]:
        pass
    with reserved_ports([port]) as [first]:
        assert first == port
        with pytest.raises(PortTakenError), reserved_ports([port]):
            pass
    with reserved_ports([port]) as [again]:
        assert again == port


def test_the_program_that_listens_on_a_port_is_named():
    with listener(ANY) as taken:
        name = Path("/proc/self/comm").read_text().strip()
        assert holder(taken.getsockname()[1]) == f"{name} (pid {os.getpid()})"
    with reserved_ports([ANY]) as [port]:
        assert holder(port) == ""


def test_a_program_that_does_not_share_addresses_is_kept_out():
    with reserved_ports([ANY]) as [port], pytest.raises(OSError, match="in use"):
        listener(port, reuse=False)
