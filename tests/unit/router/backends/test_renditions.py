from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import struct
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from services.common.artifacts import DirectoryArtifactStore
from services.common.sealed_artifact import artifact_associated_data, seal
from services.router.backends import trtllm_engine
from services.router.backends.adapter_weights import AdapterWeights, AdapterWeightsError
from services.router.backends.rendition_file import RenditionError, read_rendition
from services.router.snapshot.model import AdapterBinding, AdapterRendition, AdapterVersion
from tests.fakes.router_config import tiny_rendition

KEY = b"k" * 32


def test_what_safetensors_writes_is_read_back():
    weights = np.arange(12, dtype=np.float16).reshape(3, 4)
    config = np.arange(9, dtype=np.int32).reshape(3, 3)
    tensors = read_rendition(save({"lora_weights": weights, "lora_config": config}))
    assert (tensors.weights, tensors.weights_shape) == (weights.tobytes(), (3, 4))
    assert tensors.weights_datatype == "FP16"
    assert (tensors.config, tensors.config_shape) == (config.tobytes(), (3, 3))


def with_header(change) -> bytes:
    data = tiny_rendition(1)
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    change(header)
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + data[8 + size :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        with_header(lambda header: header["lora_weights"].update(dtype="F64")),
        with_header(lambda header: header["lora_weights"].update(shape=[2, 5])),
        with_header(lambda header: header["lora_weights"].update(shape=[-2, -4])),
        with_header(lambda header: header["lora_weights"].update(data_offsets=[0, 9999])),
        with_header(lambda header: header["lora_config"].update(dtype="I64")),
        with_header(lambda header: header["lora_config"].update(shape=[1, 4])),
        with_header(lambda header: header["lora_config"].update(data_offsets=None)),
    ],
)
def test_what_is_no_rendition_is_refused(data):
    with pytest.raises(RenditionError):
        read_rendition(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(RenditionError):
        read_rendition(data)


class CountingStore:
    """Counts reads, and blocks them until the test lets them go on."""

    def __init__(self, store: DirectoryArtifactStore) -> None:
        self.store = store
        self.reads = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def put(self, data: bytes) -> str:
        return self.store.put(data)

    def read(self, sha256: str) -> bytes:
        self.reads += 1
        assert self.go_on.wait(5)
        return self.store.read(sha256)


def bound(store: CountingStore, fill: int, serial: int, tenant_uid: str = "t") -> AdapterBinding:
    data = tiny_rendition(fill)
    sha256 = hashlib.sha256(data).hexdigest()
    artifact = store.put(seal(KEY, artifact_associated_data(tenant_uid, sha256), data))
    rendition = AdapterRendition(
        "TRTLLM_ENGINE", (7 << 40) | serial, sha256, artifact, "float16", 4, "e" * 64
    )
    return AdapterBinding(AdapterVersion("a", 1, "models/m", "5" * 64, (rendition,), KEY), rendition)


@pytest.fixture
def store(tmp_path) -> CountingStore:
    return CountingStore(DirectoryArtifactStore(tmp_path))


async def test_twenty_at_once_read_once_and_one_that_leaves_disturbs_nobody(store):
    binding = bound(store, 1, 1)
    store.go_on.clear()
    async with AdapterWeights(store, 1 << 20, trtllm_engine.encode_adapter) as weights:
        loads = [asyncio.create_task(weights.load("t", binding)) for _ in range(20)]
        await asyncio.sleep(0)
        loads[0].cancel()
        store.go_on.set()
        tensors = await asyncio.gather(*loads[1:])
        assert store.reads == 1
        assert all(found is tensors[0] for found in tensors)
        assert await weights.load("t", binding) is tensors[0]
        assert store.reads == 1


async def test_the_cache_keeps_what_was_used_last_within_its_bytes(store):
    first, second = bound(store, 1, 1), bound(store, 2, 2)
    size = len(trtllm_engine.encode_adapter(read_rendition(tiny_rendition(1))))
    async with AdapterWeights(store, size, trtllm_engine.encode_adapter) as weights:
        await weights.load("t", first)
        await weights.load("t", second)
        await weights.load("t", second)
        assert store.reads == 2
        await weights.load("t", first)
        assert store.reads == 3
    async with AdapterWeights(store, size - 1, trtllm_engine.encode_adapter) as nothing_fits:
        await nothing_fits.load("t", first)
        await nothing_fits.load("t", first)
        assert store.reads == 5


async def test_weights_of_another_tenant_key_or_digest_do_not_open(store):
    binding = bound(store, 1, 1)
    other_key = replace(binding, version=replace(binding.version, artifact_key=b"x" * 32))
    other_digest = replace(binding, rendition=replace(binding.rendition, sha256="a" * 64))
    missing = replace(binding, rendition=replace(binding.rendition, artifact_sha256="a" * 64))
    async with AdapterWeights(store, 1 << 20, trtllm_engine.encode_adapter) as weights:
        for tenant_uid, wrong in (("u", binding), ("t", other_key), ("t", other_digest), ("t", missing)):
            with pytest.raises(AdapterWeightsError):
                await weights.load(tenant_uid, wrong)
        await weights.load("t", binding)
