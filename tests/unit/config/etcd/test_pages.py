"""Lists of any size arrive: their pages fit a message and a call's deadline."""

from __future__ import annotations

import grpc
import pytest
from tenantry.etcdapi.v1 import etcd_service_pb2 as pb

from services.config.etcd import client as client_module
from services.config.etcd.client import PAGE_BYTES, PAGE_KEYS
from services.config.etcd.store import StoreUnavailableError

MESSAGE_BYTES = 64 << 20


class Etcd:
    """A channel to an etcd that holds values of these sizes, and whose answers must not be larger than a message."""

    def __init__(self, sizes, at_most_bytes=MESSAGE_BYTES, code=grpc.StatusCode.RESOURCE_EXHAUSTED):
        self._keys = [f"/k/{number:06d}".encode() for number in range(len(sizes))]
        self._sizes, self._at_most_bytes, self._code = sizes, at_most_bytes, code
        self.pages = []

    def unary_unary(self, method, *_, **__):
        return self._range if method.endswith("/Range") else None

    async def _range(self, request, timeout):
        first = next((n for n, key in enumerate(self._keys) if key >= request.key), len(self._keys))
        chosen = range(first, min(first + request.limit, len(self._keys)))
        size = sum(self._sizes[number] for number in chosen)
        self.pages.append((len(chosen), size))
        if size > self._at_most_bytes:
            raise grpc.aio.AioRpcError(self._code, grpc.aio.Metadata(), grpc.aio.Metadata())
        # One value stands for all of them: only the size of the page matters.
        kvs = [pb.KeyValue(key=self._keys[number], mod_revision=1) for number in chosen]
        if kvs:
            kvs[0].value = bytes(size)
        return pb.RangeResponse(
            header=pb.ResponseHeader(cluster_id=1, revision=7), kvs=kvs, more=chosen.stop < len(self._keys)
        )


async def listed(etcd, module=client_module):
    client = module.EtcdClient(etcd)
    items, revision = await client.list("/k/")
    assert revision == 7
    assert client.answers == len([size for _, size in etcd.pages if size <= etcd._at_most_bytes])
    return len(items)


async def test_large_tenants_are_listed_in_pages_that_fit():
    etcd = Etcd([256 << 10] * 600)
    assert await listed(etcd) == 600
    assert max(size for _, size in etcd.pages) <= PAGE_BYTES + (256 << 10)


async def test_that_test_notices_pages_of_a_fixed_number_of_keys(monkeypatch):
    monkeypatch.setattr(client_module, "_FIRST_PAGE_KEYS", 500)
    monkeypatch.setattr(client_module, "_TOO_MUCH", ())
    with pytest.raises(StoreUnavailableError):
        await listed(Etcd([256 << 10] * 600))


async def test_small_values_come_in_few_pages():
    etcd = Etcd([200] * 10_000)
    assert await listed(etcd) == 10_000
    assert len(etcd.pages) < 10_000 / PAGE_KEYS + 10


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_a_page_that_does_not_come_through_is_asked_for_in_halves(code):
    etcd = Etcd([100] * 500 + [1 << 20] * 100 + [100] * 500, at_most_bytes=4 << 20, code=code)
    assert await listed(etcd) == 1_100


async def test_an_etcd_that_answers_nothing_is_given_up():
    etcd = Etcd([100] * 50, at_most_bytes=0, code=grpc.StatusCode.DEADLINE_EXCEEDED)
    with pytest.raises(StoreUnavailableError):
        await listed(etcd)
    assert len(etcd.pages) == 6
