"""Registering adapters: ids, versions, and uploads that are too large, broken or refused half way."""

from __future__ import annotations

import pytest
from safetensors.numpy import load
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnauthenticatedError,
)
from services.common.sealed_artifact import artifact_associated_data, open_sealed
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.admin import adapters, uploads
from services.config.etcd import keys as etcd_keys
from tests.fakes.config_plane import Call, ConfigPlane
from tests.fakes.peft_files import peft_files


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    return plane


def good_files():
    config, weights, _ = peft_files()
    return [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)]


async def test_a_version_has_one_rendition_a_form_and_ids_that_never_repeat(plane):
    await plane.new_pool("q", engine_sha256="c" * 64, adapter_config_columns=4)
    first = await plane.register("acme", good_files())
    second = await plane.register("acme", good_files())
    renditions = [rendition for version in second.versions for rendition in version.renditions]
    assert [version.version for version in second.versions] == [1, 2]
    assert second.versions[0] == first.versions[0]
    assert {r.lora_id >> 40 for r in renditions} == {1}
    assert sorted(r.lora_id & 0xFFFFFFFF for r in renditions) == [1, 2, 3, 4]
    tenant = plane.current.state.tenant("acme")
    for rendition in renditions:
        place = artifact_associated_data(tenant.stored.tenant_uid, rendition.sha256)
        sealed = plane.artifacts.read(rendition.artifact_sha256)
        table = load(open_sealed(tenant.key.artifact, place, sealed))["lora_config"]
        assert table.shape == (2, rendition.config_columns)


async def test_a_serial_taken_in_between_is_not_given_again(plane):
    key = etcd_keys.serial_counter_key(plane.current.state.tenant("acme").stored.tenant_uid)

    def come_in():
        plane.store.before_write = lambda: None
        plane.store.put({key: b"7"})

    plane.store.before_write = come_in
    made = await plane.register("acme", good_files())
    assert made.versions[0].renditions[0].lora_id & 0xFFFFFFFF == 8


async def test_a_restored_store_gives_ids_of_another_epoch(plane):
    plane.store.put({etcd_keys.epoch_key(): b"3"})
    made = await plane.register("acme", good_files())
    assert made.versions[0].renditions[0].lora_id == 1 << 40 | 3 << 32 | 1


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ([], WEIGHTS_FILE),
        ([("evil.bin", b"x")], "chunk.file"),
        ([(CONFIG_FILE, b"x" * (64 << 10)), (CONFIG_FILE, b"x")], CONFIG_FILE),
        ([(CONFIG_FILE, b"{}"), (WEIGHTS_FILE, b"junk")], WEIGHTS_FILE),
    ],
)
async def test_broken_uploads_name_the_file_and_write_nothing(plane, files, field):
    before = await plane.store.list("")
    with pytest.raises(InvalidArgumentError) as failure:
        await plane.register("acme", files)
    assert field in {violation.field for violation in failure.value.violations}
    assert await plane.store.list("") == before


async def test_weights_beyond_the_bound_are_refused_and_read_to_their_end(plane, monkeypatch):
    """A client that is still sending may lose the status of its refusal."""
    monkeypatch.setitem(uploads._LIMITS, WEIGHTS_FILE, 100)
    sent = []

    def files():
        for number in range(6):
            sent.append(number)
            yield (WEIGHTS_FILE, b"x" * 60)

    with pytest.raises(InvalidArgumentError, match="more than 100"):
        await plane.register("acme", files())
    assert len(sent) == 6


async def test_refused_operators_are_heard_out_too_but_nobody_unknown(plane):
    sent = []

    async def pieces():
        yield pb.RegisterAdapterRequest(header=pb.AdapterHeader(parent="tenants/none", adapter_id="x"))
        for number in range(3):
            sent.append(number)
            yield pb.RegisterAdapterRequest(chunk=pb.FileChunk(file=CONFIG_FILE, data=b"x"))

    with pytest.raises(NotFoundError):
        await plane.admin.RegisterAdapter(pieces(), plane.operator)
    assert len(sent) == 3
    with pytest.raises(UnauthenticatedError):
        await plane.admin.RegisterAdapter(pieces(), Call("nobody"))
    assert len(sent) == 3


async def test_versions_of_an_adapter_are_bounded(plane, monkeypatch):
    monkeypatch.setattr(adapters, "MAX_VERSIONS", 2)
    for _ in range(2):
        await plane.register("acme", good_files())
    with pytest.raises(ResourceExhaustedError):
        await plane.register("acme", good_files())


async def test_a_rank_the_pools_do_not_take_is_refused(plane):
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/p"))
    pool.capacity.adapter_rank = 1
    await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool))
    with pytest.raises(InvalidArgumentError, match="rank 2, more than the pools' 1"):
        await plane.register("acme", good_files())


async def test_a_base_model_without_pools_has_no_adapters_yet(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    await plane.new_model("other")
    with pytest.raises(FailedPreconditionError):
        await plane.register("acme", good_files(), base_model="models/other")
