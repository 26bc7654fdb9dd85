"""Ports of a run: held for those they are meant for, given to nobody else."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from services.local.ports import ANY, LOOPBACK, reserved_ports


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


def test_a_port_somebody_listens_on_is_not_taken():
    with listener(ANY) as taken:
        port = taken.getsockname()[1]
        with reserved_ports([port]) as [other]:
            assert other != port


def test_two_runs_that_want_the_same_port_before_either_listens_get_two():
    with reserved_ports([ANY]) as [port]:
        pass
    with reserved_ports([port]) as [first], reserved_ports([port]) as [second]:
        assert first == port != second
    with reserved_ports([port]) as [again]:
        assert again == port


def test_a_program_that_does_not_share_addresses_is_kept_out():
    with reserved_ports([ANY]) as [port], pytest.raises(OSError, match="in use"):
        listener(port, reuse=False)
