"""How the twin's server starts, stops and dies."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from tests.integration import triton_process
from tests.integration.triton_process import prompt_tensors, read, running_twin, scalar
from triton_models.cpu_engine.launch import missing_needs, remove_leftover_memory, triton_command
from triton_models.cpu_engine.preparation import prepare

pytestmark = pytest.mark.integration

PROMPT = [1, 4093, 198, 57, 5248]
SHM = Path("/dev/shm")
ENGINE_BREAKS = """
from triton_models.cpu_engine.executor import Executor

def _break(self, rows):
    raise RuntimeError("sabotaged")

Executor.forward = _break
"""


def generating(twin):
    stream = twin.stream(prompt_tensors(PROMPT, 4000) | {"streaming": scalar(True, bool)})
    assert not next(iter(stream)).error_message
    return stream


def stub_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    pids = {pid for thread in threads for pid in (thread / children.name).read_text().split()}
    (pid,) = pids
    return int(pid)


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def gone(pid):
    try:
        return "Z (zombie)" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def regions(twin):
    return list(SHM.glob(f"{twin.settings.shm_prefix}*"))


def test_this_machine_lacks_nothing():
    assert missing_needs() == []


def modes_while_generating(twin):
    stream = generating(twin)
    try:
        return {region.stat().st_mode & 0o777 for region in regions(twin)}
    finally:
        stream.cancel()


def test_nobody_else_may_open_the_memory_that_prompts_pass_through(prepared_model, tmp_path):
    with running_twin(prepared_model, tmp_path) as twin:
        assert modes_while_generating(twin) == {0o600}


def test_that_test_notices_a_server_with_a_umask_alone(prepared_model, tmp_path, monkeypatch):
    monkeypatch.setattr(triton_process, "triton_command", with_a_umask_alone)
    with running_twin(prepared_model, tmp_path) as twin:
        assert modes_while_generating(twin) == {0o644}


def with_a_umask_alone(settings):
    command = triton_command(settings)
    program = command.argv[command.argv.index("triton_models.cpu_engine.private_memory") + 1 :]
    return replace(command, argv=("/bin/sh", "-c", 'umask 077 && exec "$@"', "triton", *program))


def test_sigterm_ends_running_requests_and_leaves_nothing(prepared_model, tmp_path):
    with running_twin(prepared_model, tmp_path) as twin:
        stream, stub = generating(twin), stub_of(twin.process)
        assert regions(twin)
        twin.process.terminate()
        reply = read(stream)
        assert reply.error.endswith("due to the following error: the server is stopping")
        assert twin.process.wait(10) == 0
        wait_until(lambda: gone(stub), 2, "the stub is still there")
        assert regions(twin) == []


@pytest.mark.parametrize("busy", [False, True])
def test_kill_takes_the_stub_along_and_its_memory_can_be_removed_precisely(prepared_model, tmp_path, busy):
    with running_twin(prepared_model, tmp_path) as twin:
        stub = stub_of(twin.process)
        stream = generating(twin) if busy else None
        other = SHM / f"other_{twin.settings.shm_prefix}"
        other.touch()
        try:
            twin.process.kill()
            wait_until(lambda: gone(stub), 5, "the stub outlives its server")
            assert remove_leftover_memory(twin.settings.shm_prefix) == 1
            assert regions(twin) == []
            assert other.exists()
        finally:
            other.unlink()
            if stream is not None:
                stream.cancel()


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_stub_takes_the_server_along(prepared_model, tmp_path, busy):
    """A server without its stub stays ready for ever and answers nothing: better gone, and started again."""
    with running_twin(prepared_model, tmp_path) as twin:
        stream = generating(twin) if busy else None
        os.kill(stub_of(twin.process), signal.SIGKILL)
        assert twin.process.wait(5) == -signal.SIGKILL
        if stream is not None:
            with pytest.raises(grpc.RpcError) as broken:
                read(stream)
            assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
        assert remove_leftover_memory(twin.settings.shm_prefix) == 1


def test_an_engine_that_dies_fails_its_requests_and_stops_the_server(prepared_model, tmp_path):
    with running_twin(prepared_model, tmp_path, sabotage=ENGINE_BREAKS) as twin:
        with ThreadPoolExecutor(3) as pool:
            replies = list(pool.map(lambda _: twin.generate(PROMPT, 5), range(3)))
        assert all(reply.error.endswith("the engine has failed") for reply in replies)
        twin.process.wait(10)
        assert "sabotaged" in twin.log()


def test_a_server_without_its_model_does_not_start(prepared_model, tmp_path):
    nothing = replace(prepared_model, directory=tmp_path / "nothing")
    with pytest.raises(AssertionError, match="did not get ready"), running_twin(nothing, tmp_path / "state"):
        pass


def test_every_port_listens_on_loopback_only(prepared_model, tmp_path):
    with running_twin(prepared_model, tmp_path) as twin:
        settings = twin.settings
        ports = {settings.grpc_port, settings.http_port, settings.metrics_port}
        own = {str(fd.readlink()) for fd in Path(f"/proc/{twin.process.pid}/fd").iterdir() if fd.is_symlink()}
        addresses = {}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == "0A" and f"socket:[{inode}]" in own:
                    address, port = local.split(":")
                    addresses[int(port, 16)] = address
        assert addresses.keys() == ports
        assert all(re.fullmatch(r"(0{16}FFFF0000)?0100007F", address) for address in addresses.values())


def test_a_damaged_cache_is_prepared_anew(prepared_model, tmp_path):
    copy = tmp_path / prepared_model.directory.name
    shutil.copytree(prepared_model.directory, copy, copy_function=os.link)
    tokenizer = copy / prepared_model.tokenizer_path.relative_to(prepared_model.directory)
    damaged = bytearray(tokenizer.read_bytes())
    damaged[1000] ^= 1
    tokenizer.unlink()
    tokenizer.write_bytes(damaged)
    steps = []
    again = prepare(tmp_path, lambda step, done, total: steps.append((step, done, total)))
    assert "dequantise" in {step for step, _, _ in steps}
    assert again.card == prepared_model.card
    assert again.tokenizer_path.read_bytes() == prepared_model.tokenizer_path.read_bytes()
