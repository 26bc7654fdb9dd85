"""Keys in etcd that expire unless they are written again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from tenantry.etcdapi.v1 import etcd_service_pb2 as pb
from tenantry.etcdapi.v1 import etcd_service_pb2_grpc as rpc

from services.config.etcd.client import CALL_SECONDS
from services.config.etcd.store import MAX_TXN_OPERATIONS, StoreUnavailableError


class LeaseOverError(Exception):
    """The lease has ended or never existed; nothing was written."""


class EtcdLeases:
    """Grants leases and writes under them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._lease = rpc.LeaseStub(channel)
        self._kv = rpc.KVStub(channel)

    async def grant(self, lifetime_seconds: int) -> int:
        """Grant a new lease; etcd may let it live longer, never shorter.

        Raises:
            StoreUnavailableError: no answer in time.
        """
        granted = await self._call(self._lease.LeaseGrant, pb.LeaseGrantRequest(ttl=lifetime_seconds))
        return int(granted.id)

    async def write(self, lease: int, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Put keys that expire with the lease, and delete others, as one revision.

        Raises:
            LeaseOverError: the lease has ended.
            StoreUnavailableError: no answer in time; the write may have taken effect.
            ValueError: more than `MAX_TXN_OPERATIONS` operations.
        """
        if len(puts) + len(deletes) > MAX_TXN_OPERATIONS:
            raise ValueError(f"a transaction has at most {MAX_TXN_OPERATIONS} operations")
        operations = [
            pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=lease))
            for key, value in puts.items()
        ] + [pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode())) for key in deletes]
        await self._call(self._kv.Txn, pb.TxnRequest(success=operations))

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise LeaseOverError from None
            raise StoreUnavailableError("the config store does not answer") from None
