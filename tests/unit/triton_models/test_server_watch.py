"""Who dies with whom, shown on real processes: this test starts a parent, the parent a child."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from triton_models.cpu_engine import server_watch
from triton_models.cpu_engine.server_watch import ServerWatch

WAIT_SECONDS = 10
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
child.wait()
print("child ended", flush=True)
sys.stdin.read()
"""
PREAMBLE = """
import os, sys
from triton_models.cpu_engine.server_watch import *
"""
READY = "print(os.getpid(), flush=True); sys.stdin.read()"


@contextmanager
def family(child):
    """A parent process and its child's id, once the child has said it."""
    argv = [sys.executable, "-c", PARENT, PREAMBLE + child]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        try:
            yield parent, int(line_of(parent))
        finally:
            parent.kill()


def line_of(process):
    ready, _, _ = select.select([process.stdout], [], [], WAIT_SECONDS)
    assert ready, "nothing was said in time"
    return process.stdout.readline()


def test_a_killed_child_takes_its_parent_along():
    with family("guard = ParentGuard(os.getppid()); " + READY) as (parent, child):
        os.kill(child, signal.SIGKILL)
        assert parent.wait(WAIT_SECONDS) == -signal.SIGKILL


def test_a_child_that_releases_its_parent_leaves_it_alone():
    with family("guard = ParentGuard(os.getppid()); print(os.getpid(), flush=True); guard.release()") as (
        parent,
        _,
    ):
        assert line_of(parent) == "child ended\n"
        assert parent.poll() is None


@pytest.mark.parametrize(("started_later", "outcome"), [(0, -signal.SIGKILL), (1, None)])
def test_a_guard_kills_the_very_process_it_was_given_and_not_another_of_its_number(started_later, outcome):
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        try:
            started = int(Path(f"/proc/{process.pid}/stat").read_text().split()[21]) + started_later
            guard = ["/bin/sh", "-c", server_watch._GUARD, str(process.pid), str(started)]
            subprocess.run(guard, check=False, stdin=subprocess.DEVNULL, timeout=WAIT_SECONDS)
            if outcome is not None:
                process.wait(WAIT_SECONDS)
            assert process.poll() == outcome
        finally:
            process.kill()


def test_a_guard_of_a_process_that_is_gone_says_nothing_and_kills_nobody():
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait(WAIT_SECONDS)
    guard = ["/bin/sh", "-c", server_watch._GUARD, str(process.pid), "1"]
    assert subprocess.run(guard, check=False, stdin=subprocess.DEVNULL, timeout=WAIT_SECONDS).returncode != 0


def test_nobody_guards_a_process_that_is_not_its_parent():
    with pytest.raises(ProcessLookupError):
        server_watch.ParentGuard(os.getpid())


def test_a_child_ends_with_its_parent():
    with family(
        "exit_with_parent(); " + READY.replace("sys.stdin.read()", "import time; time.sleep(60)")
    ) as (
        parent,
        child,
    ):
        handle = os.pidfd_open(child)
        try:
            parent.kill()
            ready, _, _ = select.select([handle], [], [], WAIT_SECONDS)
            assert ready, "the child outlives its parent"
        finally:
            os.close(handle)


def test_whoever_is_the_parent_now_is_not_stopped_in_place_of_one_that_is_gone():
    """An orphan is adopted, in a container by the process whose end is everybody's."""
    with (
        family("stop_parent(os.getppid() + 1); " + READY) as (parent, _),
        pytest.raises(subprocess.TimeoutExpired),
    ):
        parent.wait(0.2)


def test_a_parent_that_is_there_is_stopped():
    with family("print(os.getpid(), flush=True); stop_parent(os.getppid()); sys.stdin.read()") as (parent, _):
        assert parent.wait(WAIT_SECONDS) == -signal.SIGTERM


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_port_that_closes_says_that_the_server_stops(listening):
    now = [0.0]
    watch = ServerWatch(listening.getsockname()[1], lambda: now[0])
    assert not watch.stopping()
    listening.close()
    assert not watch.stopping()  # it does not look at every step
    now[0] += 1
    assert watch.stopping()


def test_a_port_that_was_never_open_says_nothing(listening):
    port = listening.getsockname()[1]
    listening.close()
    assert not ServerWatch(port).stopping()
