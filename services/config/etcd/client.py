"""etcd's KV calls with deadlines and typed failures. The only module besides `watch` that knows etcd's stubs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tenantry.etcdapi.v1 import etcd_service_pb2 as pb
from tenantry.etcdapi.v1 import etcd_service_pb2_grpc as rpc

from services.common.errors import Reason, UnavailableError

CALL_SECONDS = 2.0
PAGE_KEYS = 500
MAX_TXN_OPERATIONS = 128


class StoreUnavailableError(UnavailableError):
    """etcd did not answer; whether a write took effect is not known."""

    default_reason = Reason.STORE_UNAVAILABLE


class CompactedError(Exception):
    """The revision asked for is gone: list again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A value and the revision that last changed it."""

    value: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Expect:
    """A condition of a transaction: this key was last changed by this revision; 0 for a key that is not there."""

    key: str
    mod_revision: int


def range_end(prefix: bytes) -> bytes:
    """The first key behind every key with a prefix; NUL, etcd's word for no end, when there is none."""
    for place in range(len(prefix) - 1, -1, -1):
        if prefix[place] < 0xFF:
            return prefix[:place] + bytes([prefix[place] + 1])
    return b"\x00"


class EtcdClient:
    """Reads and writes over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._kv = rpc.KVStub(channel)

    async def get(self, key: str) -> Stored | None:
        """One key, linearizable; None when it is not there.

        Raises:
            StoreUnavailableError: no answer in time.
        """
        response = await self._call(self._kv.Range, pb.RangeRequest(key=key.encode()))
        return Stored(response.kvs[0].value, response.kvs[0].mod_revision) if response.kvs else None

    async def list(self, prefix: str) -> tuple[dict[str, Stored], int]:
        """Every key with a prefix, all pages at one revision; returns that revision too.

        Raises:
            StoreUnavailableError: no answer in time.
            CompactedError: the revision was compacted while paging.
        """
        start, end, revision = prefix.encode(), range_end(prefix.encode()), 0
        found: dict[str, Stored] = {}
        while True:
            request = pb.RangeRequest(key=start, range_end=end, revision=revision, limit=PAGE_KEYS)
            response = await self._call(self._kv.Range, request)
            revision = revision or response.header.revision
            for kv in response.kvs:
                found[kv.key.decode()] = Stored(kv.value, kv.mod_revision)
            if not response.more:
                return found, revision
            start = response.kvs[-1].key + b"\x00"

    async def write(
        self, expected: Sequence[Expect], puts: dict[str, bytes], deletes: Sequence[str] = ()
    ) -> int | None:
        """Put and delete keys as one revision, if every expectation holds.

        Returns:
            The revision written, or None when an expectation did not hold and nothing was written.

        Raises:
            StoreUnavailableError: no answer in time; the write may have taken effect.
        """
        if len(puts) + len(deletes) > MAX_TXN_OPERATIONS:
            raise ValueError(f"a transaction has at most {MAX_TXN_OPERATIONS} operations")
        operations = [
            pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value))
            for key, value in puts.items()
        ] + [pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode())) for key in deletes]
        request = pb.TxnRequest(
            compare=[
                pb.Compare(
                    result=pb.Compare.EQUAL,
                    target=pb.Compare.MOD,
                    key=item.key.encode(),
                    mod_revision=item.mod_revision,
                )
                for item in expected
            ],
            success=operations,
        )
        response = await self._call(self._kv.Txn, request)
        return int(response.header.revision) if response.succeeded else None

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                raise CompactedError from None
            raise StoreUnavailableError("the config store does not answer") from None
