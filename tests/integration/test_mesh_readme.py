"""The README's client: nothing but the stubs, grpcio, a CA file and a key from `tenantry key create`."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from services.cli.main import app

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("grpcio", "protobuf", "googleapis-common-protos")


def with_dependencies(names):
    found, wanted = set(), list(names)
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            required = map(Requirement, metadata.requires(name) or ())
            wanted += [one.name for one in required if not one.marker or one.marker.evaluate({"extra": ""})]
    return found


def readme_client() -> str:
    text = (REPOSITORY / "README.md").read_text("utf-8")
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(program)


@pytest.fixture
def bare_python(tmp_path):
    """A folder that holds the stubs, the packages the README names and what these require; nothing else."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in with_dependencies(PACKAGES):
        package = metadata.distribution(name)
        for file in package.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).symlink_to(package.locate_file(file))
    (folder / "tenantry").symlink_to(REPOSITORY / "gen" / "python" / "tenantry")
    return folder


def run(folder: Path, here: Path, program: str) -> subprocess.CompletedProcess[str]:
    # Isolated and without site-packages: what is not in the folder is not there.
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    command = [sys.executable, "-I", "-S", "-c", path + program]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=here, timeout=60)


async def test_the_readmes_client_streams_with_nothing_but_the_stubs_and_grpcio(mesh, bare_python, tmp_path):
    endpoints = mesh.local.endpoints({})
    key = tmp_path / "acme.key"
    arguments = [
        "key", "create", mesh.tenants[0], "--out", str(key), "--wait", "--state-dir", str(mesh.layout.state_dir),
    ]  # fmt: skip
    created = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert created.exit_code == 0, created.output
    (tmp_path / "ca.pem").write_bytes(endpoints.ca_path.read_bytes())
    program = readme_client()
    assert '"localhost:8443"' in program
    program = program.replace("localhost:8443", endpoints.tenant_address)
    finished = await asyncio.to_thread(run, bare_python, tmp_path, program)
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.split()) > 5
    key.write_text("not.a.key\n")
    refused = await asyncio.to_thread(run, bare_python, tmp_path, program)
    assert "UNAUTHENTICATED" in refused.stderr


async def test_that_test_notices_a_client_that_needs_more(bare_python, tmp_path):
    for package in ("services", "grpc_status", "pydantic"):
        finished = await asyncio.to_thread(run, bare_python, tmp_path, f"import {package}")
        assert "ModuleNotFoundError" in finished.stderr
