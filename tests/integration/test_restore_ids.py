"""A backup of a real etcd, restored under the real config service: nothing that was given out is given out again."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
from dataclasses import dataclass, field

import pytest

from services.config.etcd import keys as etcd_keys
from services.config.etcd.client import EtcdClient
from services.config.recovery import restore
from services.config.recovery.allocation_marks import FILE, read_marks
from tests.fakes.config_service import ConfigServicePlane
from tests.fakes.etcd_process import ETCD
from tests.fakes.mutants import changed
from tests.fakes.service_process import REPOSITORY

pytestmark = pytest.mark.integration


@dataclass
class GivenOut:
    ordinals: list = field(default_factory=list)
    uids: list = field(default_factory=list)
    lora_ids: list = field(default_factory=list)

    async def use(self, plane, tenants, adapters):
        for tenant_id in tenants:
            tenant = await plane.new_tenant(tenant_id)
            self.ordinals.append(tenant.ordinal)
            self.uids.append(tenant.tenant_uid)
        for tenant_id, adapter_id in adapters:
            adapter = await plane.register(tenant_id, adapter_id)
            self.lora_ids += [rendition.lora_id for rendition in adapter.versions[-1].renditions]

    @property
    def repeated(self):
        kinds = {"ordinals": self.ordinals, "uids": self.uids, "lora_ids": self.lora_ids}
        return {name for name, given in kinds.items() if len(set(given)) < len(given)}


async def run(*words):
    process = await asyncio.create_subprocess_exec(
        *map(str, words), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def back_up(plane, path):
    status, output = await run(
        ETCD.with_name("etcdctl"), "--endpoints", plane.etcd.target, "snapshot", "save", path
    )
    assert status == 0, output


async def put_back(plane, path):
    """Stop what writes, replace etcd's data by the backup's, start etcd."""
    await plane.service.end()
    await plane.etcd.kill()
    shutil.rmtree(plane.etcd.data_dir)
    peer = f"http://127.0.0.1:{plane.etcd._peer_port}"
    status, output = await run(
        ETCD.with_name("etcdctl"), "snapshot", "restore", path, "--data-dir", plane.etcd.data_dir,
        "--name", "one", "--initial-cluster", f"one={peer}", "--initial-advertise-peer-urls", peer,
        "--initial-cluster-token", secrets.token_hex(4),
    )  # fmt: skip
    assert status == 0, output
    await plane.etcd.start()


def as_documented(plane):
    return run(
        sys.executable, "-m", "services.config.recovery.restore",
        "--state-dir", plane.folder / "state", "--etcd-target", plane.etcd.target,
    )  # fmt: skip


async def history(folder, after_restore):
    """Use, back up, use, restore, use; returns what was given out."""
    async with ConfigServicePlane(folder) as plane:
        await plane.with_catalog()
        given = GivenOut()
        await given.use(plane, ["a", "b"], [("a", "one")])
        await back_up(plane, folder / "backup.db")
        await given.use(plane, ["c", "d"], [("a", "one"), ("a", "two"), ("c", "one")])
        for again in ("x", "y"):
            # The same old backup, twice: what it says of epochs is too low the second time.
            await put_back(plane, folder / "backup.db")
            await after_restore(plane)
            await plane.service.start()
            await given.use(plane, ["c", again], [("a", "one"), ("a", "two"), ("c", "one")])
        return given, read_marks(folder / "state" / FILE)


async def test_after_a_restore_no_ordinal_uid_or_lora_id_repeats(tmp_path_factory):
    async def procedure(plane):
        status, output = await as_documented(plane)
        assert status == 0, output
        assert "restore epoch" in output

    given, marks = await history(tmp_path_factory.mktemp("p"), procedure)
    assert given.repeated == set()
    assert given.ordinals == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sorted({lora_id >> 32 & 0xFF for lora_id in given.lora_ids}) == [0, 1, 2]
    assert (marks.ordinal, marks.epoch) == (8, 2)


async def test_without_the_epoch_lora_ids_repeat(tmp_path_factory):
    broken = changed(
        restore, "restore-raises-the-epoch", "raised = Allocated(highest.ordinal, highest.epoch)"
    )

    async def procedure(plane):
        channel = plane.etcd.channel()
        path = plane.folder / "state" / FILE
        await broken.raise_allocations(EtcdClient(channel), path, read_marks(path))
        await channel.close()

    given, _ = await history(tmp_path_factory.mktemp("p"), procedure)
    assert given.repeated == {"lora_ids"}


async def test_without_the_procedure_ordinals_repeat_too(tmp_path_factory):
    async def nothing(plane):
        pass

    given, _ = await history(tmp_path_factory.mktemp("p"), nothing)
    assert given.repeated == {"ordinals", "lora_ids"}


async def test_without_marks_nothing_is_raised_unless_somebody_answers_for_the_numbers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("p")
    async with ConfigServicePlane(folder) as plane:
        await plane.with_catalog()
        await plane.new_tenant("a")
        await plane.service.end()
        words = (
            sys.executable, "-m", "services.config.recovery.restore",
            "--state-dir", folder / "state", "--etcd-target", plane.etcd.target,
        )  # fmt: skip
        marks = folder / "state" / FILE
        kept = marks.read_bytes()
        for damage in (lambda: marks.write_text("{"), marks.unlink):
            damage()
            status, output = await run(*words)
            assert status == 1, output
            assert output.startswith("nothing was raised"), output
        channel = plane.etcd.channel()
        store = EtcdClient(channel)
        assert await store.get(etcd_keys.epoch_key()) is None
        copy = folder / "copy.json"
        copy.write_bytes(kept)
        for more, ordinal, epoch in (
            (("--marks", copy), b"1", b"1"),
            (("--ordinal-at-least", "40", "--epoch-at-least", "6"), b"40", b"7"),
        ):
            marks.unlink(missing_ok=True)
            status, output = await run(*words, *more)
            assert status == 0, output
            assert (await store.get(etcd_keys.ordinal_counter_key())).value == ordinal
            assert (await store.get(etcd_keys.epoch_key())).value == epoch
        await channel.close()
