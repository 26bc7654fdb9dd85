"""Each import contract of pyproject.toml can fail: in a copy of the tree, one forbidden import breaks that contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = [
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
]
LAYERS, CIRCLES, ETCD, PURE, SDKS, TERMINAL = CONTRACTS
# Contract, a module, and the import that it may not have.
FORBIDDEN = [
    (
        LAYERS,
        "services/router/settings",
        "services.config.settings",
    ),
    (LAYERS, "services/common/clock", "services.audit.settings"),
    (LAYERS, "services/local/layout", "services.cli.settings"),
    (
        CIRCLES,
        "services/audit/proofs/merkle",
        "services.audit.bundle.verify",
    ),
    (
        CIRCLES,
        "services/config/etcd/store",
        "services.config.etcd.client",
    ),
    (LAYERS, "triton_models/cpu_engine/sampler", "services.common.clock"),
    (
        ETCD,
        "services/cli/settings",
        "tenantry.etcdapi.v1.etcd_service_pb2",
    ),
    (
        ETCD,
        "services/config/settings",
        "tenantry.etcdapi.v1.etcd_service_pb2",
    ),
    (PURE, "services/audit/proofs/merkle", "asyncio"),
    (
        PURE,
        "services/edge/spec",
        "services.common.rpc.channel",
    ),
    (SDKS, "services/router/settings", "cryptography"),
    (SDKS, "services/config/settings", "tokenizers"),
    (TERMINAL, "services/local/layout", "rich"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("services", "triton_models", "gen"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def broken_contracts(folder: Path) -> list[str]:
    """The names of the contracts that a tree breaks."""
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'gen/python'}", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Contracts:" in run.stdout, run.stdout + run.stderr
    return [name for name in CONTRACTS if f"{name} BROKEN" in run.stdout]


def test_the_tree_as_it_is_breaks_none(copy):
    assert broken_contracts(copy) == []


@pytest.mark.parametrize(("contract", "module", "imported"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(copy, contract, module, imported):
    file = copy / f"{module}.py"
    source = file.read_text()
    try:
        file.write_text(f"{source}\nimport {imported}\n")
        assert contract in broken_contracts(copy)
    finally:
        file.write_text(source)


def test_every_contract_is_broken_once():
    assert {contract for contract, _, _ in FORBIDDEN} == set(CONTRACTS)
