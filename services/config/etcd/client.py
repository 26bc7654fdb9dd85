"""etcd's KV calls with deadlines and typed errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from tenantry.etcdapi.v1 import etcd_service_pb2 as pb
from tenantry.etcdapi.v1 import etcd_service_pb2_grpc as rpc

from services.common.errors import InternalError
from services.config.etcd.history import History
from services.config.etcd.store import (
    MAX_TXN_OPERATIONS,
    CompactedError,
    Expect,
    Stored,
    StoreUnavailableError,
    Unchanged,
)

_log = logging.getLogger(__name__)
CALL_SECONDS = 2.0
PAGE_KEYS = 2_000
"""etcd counts the remaining keys for every page: a list of 60,000 keys took twice as long with 500 keys a page."""
PAGE_BYTES = 8 << 20
"""The target size of a page, estimated from the page before. A page has to fit a message and `CALL_SECONDS`."""
_FIRST_PAGE_KEYS = 32
"""Few enough to fit a page even if each has the largest value allowed."""
_TOO_MUCH = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)


class _TooMuchError(StoreUnavailableError):
    """The answer is too large for a message or for its deadline; a smaller one may get through."""


def range_end(prefix: bytes) -> bytes:
    """The first key after every key with a prefix. For a prefix without one, NUL, which etcd reads as no end."""
    for place in range(len(prefix) - 1, -1, -1):
        if prefix[place] < 0xFF:
            return prefix[:place] + bytes([prefix[place] + 1])
    return b"\x00"


def key_text(key: bytes) -> str:
    """Decode a key. Other writers' keys may hold any bytes, which must not end the watch."""
    return key.decode(errors="backslashreplace")


class EtcdClient:
    """Reads and writes keys over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._kv = rpc.KVStub(channel)
        self.history = History()
        """Checks every answer."""
        self.answers = 0
        """The number of answers of etcd; a list of many keys takes several."""

    @property
    def cluster_id(self) -> int:
        """The cluster id of the etcd that answered last; 0 before the first answer."""
        return self.history.cluster_id

    async def get(self, key: str) -> Stored | None:
        """Read one key, linearizable; None when it does not exist.

        Raises:
            StoreUnavailableError: no answer in time.
        """
        response = await self._call(self._kv.Range, pb.RangeRequest(key=key.encode()))
        return Stored(response.kvs[0].value, response.kvs[0].mod_revision) if response.kvs else None

    async def list(self, prefix: str) -> tuple[dict[str, Stored], int]:
        """List every key with a prefix, all pages at one revision; returns that revision too.

        Raises:
            StoreUnavailableError: no answer in time.
            CompactedError: the revision was compacted while paging, or etcd was exchanged.
        """
        start, end, revision, history = prefix.encode(), range_end(prefix.encode()), 0, 0
        found: dict[str, Stored] = {}
        limit = _FIRST_PAGE_KEYS
        while True:
            request = pb.RangeRequest(key=start, range_end=end, revision=revision, limit=limit)
            try:
                response, certain = await self._ask(self._kv.Range, request)
            except _TooMuchError:
                if limit == 1:
                    raise
                limit //= 2
                continue
            history = history or self.history.number
            if not certain or history != self.history.number:
                raise CompactedError
            revision = revision or response.header.revision
            for kv in response.kvs:
                found[key_text(kv.key)] = Stored(kv.value, kv.mod_revision)
            if not response.more:
                return found, revision
            start = response.kvs[-1].key + b"\x00"
            limit = min(PAGE_KEYS, 2 * limit, max(1, PAGE_BYTES * len(response.kvs) // response.ByteSize()))

    async def write(
        self, conditions: Sequence[Expect | Unchanged], puts: Mapping[str, bytes], deletes: Sequence[str] = ()
    ) -> int | None:
        """Put and delete keys as one revision, if every condition holds.

        Returns:
            The revision written, or None when a condition did not hold and nothing was written.

        Raises:
            StoreUnavailableError: no answer in time; the write may have taken effect.
        """
        if len(puts) + len(deletes) > MAX_TXN_OPERATIONS:
            raise ValueError(f"a transaction has at most {MAX_TXN_OPERATIONS} operations")
        operations = [
            pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value))
            for key, value in puts.items()
        ] + [pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode())) for key in deletes]
        request = pb.TxnRequest(compare=[_compare(item) for item in conditions], success=operations)
        response = await self._call(self._kv.Txn, request)
        return int(response.header.revision) if response.succeeded else None

    async def _call(self, method: Any, request: Any) -> Any:
        response, _ = await self._ask(method, request)
        return response

    async def _ask(self, method: Any, request: Any) -> tuple[Any, bool]:
        """Send a request; returns the answer, and whether it certainly belongs to the history followed now."""
        asked = self.history.asking()
        try:
            response = await method(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                raise CompactedError from None
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                # A retry would not help: the request itself is wrong.
                _log.error("etcd refuses a %s of %d bytes", type(request).__name__, request.ByteSize())
                raise InternalError from None
            kind = _TooMuchError if error.code() in _TOO_MUCH else StoreUnavailableError
            raise kind("the config store does not answer") from None
        self.answers += 1
        return response, self.history.answered(asked, response.header.cluster_id, response.header.revision)


def _compare(condition: Expect | Unchanged) -> pb.Compare:
    if isinstance(condition, Expect):
        return pb.Compare(
            result=pb.Compare.EQUAL,
            target=pb.Compare.MOD,
            key=condition.key.encode(),
            mod_revision=condition.mod_revision,
        )
    prefix = condition.prefix.encode()
    return pb.Compare(
        result=pb.Compare.LESS,
        target=pb.Compare.MOD,
        key=prefix,
        range_end=range_end(prefix),
        mod_revision=condition.revision + 1,
    )
