"""The README, followed word for word: every command of it runs, in order, in a folder and a home of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text("utf-8")
READY_SECONDS = 120.0
COMMAND_SECONDS = 60.0


def commands() -> list[str]:
    """The README's command lines in order, their comments with them: a shell ignores those."""
    return [line for line in README.splitlines() if line.startswith(".venv/bin/tenantry ")]


async def run(line: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a line in a shell, as its reader would; the status and what it printed."""
    process = await asyncio.create_subprocess_shell(
        line, cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, printed.decode("utf-8", "replace")


async def serving(mesh: Process) -> str:
    """What a mesh printed until it said that it is ready."""
    assert mesh.stdout is not None
    printed = ""
    async with asyncio.timeout(READY_SECONDS):
        while '"step": "ready"' not in printed and '"step":"ready"' not in printed:
            line = await mesh.stdout.readline()
            assert line, f"the mesh ended:\n{printed}"
            printed += line.decode("utf-8", "replace")
    return printed


@pytest.fixture
async def reader(prepared_model):
    """A folder with nothing in it but `.venv`, a home of its own, and a mesh started there."""
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="reader-"))
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    state = folder / "home" / "state" / "tenantry"
    state.mkdir(parents=True)
    (state / "models").symlink_to(prepared_model.directory.parent)
    environment = {
        "HOME": str(folder / "home"),
        "XDG_STATE_HOME": str(state.parent),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
    }
    mesh = await asyncio.create_subprocess_exec(
        ".venv/bin/tenantry", "up", "--json", cwd=folder, env=environment, stdout=PIPE, stderr=STDOUT
    )
    assert mesh.stdout is not None
    try:
        await serving(mesh)
        drained = asyncio.ensure_future(mesh.stdout.read())
        yield folder, environment
        mesh.send_signal(signal.SIGTERM)
        await asyncio.wait_for(mesh.wait(), 30)
        await drained
    finally:
        if mesh.returncode is None:
            mesh.kill()
            await mesh.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_readme_has_commands():
    assert len(commands()) > 12
    assert all("#" in line or "tenantry" in line for line in commands())


async def test_every_command_of_the_readme_works(reader):
    folder, environment = reader
    failed = []
    for line in commands():
        status, printed = await run(line, folder, environment)
        if status:
            failed.append(f"$ {line}\n{printed}({status})")
        assert "Traceback" not in printed, printed
    assert not failed, "\n\n".join(failed)
    status, _ = await run(".venv/bin/tenantry tenant get nosuchtenant", folder, environment)
    assert status, "a command that fails is not noticed"


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    relative = [link for link in links if "://" not in link]
    assert len(relative) > 5
    assert [link for link in relative if not (REPOSITORY / link).exists()] == []


def test_every_variable_of_the_readme_is_a_setting():
    named = set(re.findall(r"TENANTRY_[A-Z_]+[A-Z]", README))
    sources = [path.read_text() for path in (REPOSITORY / "services").rglob("settings.py")]
    fields = {field for source in sources for field in re.findall(r"^    (\w+): ", source, re.MULTILINE)}
    prefixes = {prefix for source in sources for prefix in re.findall(r'env_prefix="(\w+)"', source)}
    assert named
    assert named - {f"{prefix}{field}".upper() for prefix in prefixes for field in fields} == set()
