from __future__ import annotations

import os

import pytest

from services.common.command_errors import CommandError
from services.common.rpc.targets import MAX_UNIX_PATH_BYTES
from services.local.layout import open_layout


def test_everything_is_under_the_state_directory(tmp_path):
    with open_layout(tmp_path / "s") as layout:
        for path in (layout.etcd_dir, layout.audit_dir, layout.config_dir, layout.logs_dir, layout.keys_dir):
            assert path.is_relative_to(tmp_path / "s")
        assert (tmp_path / "s").stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("name", ["my mesh", "a;b", "$HOME", "it's", "a\nb"])
def test_a_path_triton_cannot_run_from_is_refused_before_anything_is_made(tmp_path, name):
    with pytest.raises(CommandError, match="Triton cannot run from"), open_layout(tmp_path / name):
        pass
    assert not (tmp_path / name).exists()


def test_sockets_fit_however_deep_the_directory_is(tmp_path):
    deep = tmp_path.joinpath(*["a" * 40] * 4)
    with open_layout(deep) as layout:
        for name in ("config-discovery", "router-64", "envoy-admin"):
            assert len(os.fsencode(layout.socket(name))) <= MAX_UNIX_PATH_BYTES
        assert layout.socket_dir.stat().st_mode & 0o77 == 0
        kept = layout.socket_dir
    assert not kept.exists()


def test_a_second_mesh_in_the_same_directory_is_refused(tmp_path):
    with open_layout(tmp_path), pytest.raises(CommandError, match="runs in"), open_layout(tmp_path):
        pass
    with open_layout(tmp_path):
        pass


def test_stale_sockets_of_a_killed_run_are_cleared(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "router.sock").touch()
    with open_layout(tmp_path) as layout:
        assert not layout.socket("router").exists()


def test_shared_memory_is_named_by_the_directory_alone(tmp_path):
    with open_layout(tmp_path / "a") as one, open_layout(tmp_path / "b") as other:
        assert one.shm_prefix != other.shm_prefix
    with open_layout(tmp_path / "a") as again:
        assert again.shm_prefix == one.shm_prefix
