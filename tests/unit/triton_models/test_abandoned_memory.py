"""Shared memory of servers that never start again is removed, and nothing else."""

from __future__ import annotations

import mmap
import os
import time

import pytest

from triton_models.cpu_engine import launch
from triton_models.cpu_engine.launch import MEMORY_PREFIX, remove_abandoned_memory


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_SHM_DIRECTORY", tmp_path)
    return tmp_path


@pytest.fixture
def region(memory):
    path = memory / f"{MEMORY_PREFIX}of_a_killed_server"
    path.write_bytes(bytes(4096))
    return path


def test_a_region_that_no_process_has_is_removed(region):
    assert remove_abandoned_memory(time.time() + 3600) == 1
    assert not region.exists()


def test_a_region_of_a_running_server_stays(region):
    with region.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert remove_abandoned_memory(time.time() + 3600) == 0
        assert region.exists()


def test_a_region_that_a_starting_server_has_not_mapped_yet_stays(region):
    assert remove_abandoned_memory(time.time() + 1) == 0
    assert region.exists()


def test_memory_of_other_programs_stays(memory):
    other = memory / "somebody_elses"
    other.write_bytes(b"x")
    assert remove_abandoned_memory(time.time() + 3600) == 0
    assert other.exists()


def test_memory_of_other_users_stays(region, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: region.stat().st_uid + 1)
    assert remove_abandoned_memory(time.time() + 3600) == 0
    assert region.exists()
