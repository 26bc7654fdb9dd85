"""Two routers serve one tenant's quota: together they spend all of it and no more, and one that stops gives back."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from tenantry.config.v1 import stored_pb2, tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb
from tenantry.inference.v1 import inference_service_pb2_grpc as rpc

from services.common.errors import Reason, ResourceExhaustedError
from services.common.rpc.channel import open_channel
from services.common.rpc.status import from_rpc_error
from services.config.etcd import keys as etcd_keys
from services.config.etcd.client import EtcdClient
from tests.fakes.quota_windows import within_one_month
from tests.fakes.router_pipeline import question
from tests.fakes.served_mesh import ServedMesh

pytestmark = pytest.mark.integration
QUOTA_TOKENS = 8_000
MOST_TOKENS = 128
"""What one of these requests reserves at most, and more."""
AT_ONCE = 4
EXPECTED = {Reason.QUOTA_EXHAUSTED, Reason.QUOTA_UNAVAILABLE, Reason.NO_READY_ENDPOINT}


class Spender:
    """Asks, and adds up what the answers say they used."""

    def __init__(self, key: str) -> None:
        self._metadata = (("authorization", f"Bearer {key}"),)
        self.spent_tokens = 0
        self.refusals: list[ResourceExhaustedError] = []

    async def ask(self, stub: Any) -> None:
        request = question("hello", parameters=pb.SamplingParameters(max_output_tokens=64))
        try:
            answer = await stub.Generate(request, metadata=self._metadata, timeout=20)
        except grpc.aio.AioRpcError as refused:
            error = from_rpc_error(refused)
            assert error.reason in EXPECTED, error
            if isinstance(error, ResourceExhaustedError):
                self.refusals.append(error)
        else:
            self.spent_tokens += answer.usage.input_tokens + answer.usage.output_tokens


@pytest.mark.timeout(240)
async def test_two_routers_spend_one_quota_and_give_back_what_is_left(tmp_path_factory):
    await within_one_month(lambda: spend_with_two_routers(tmp_path_factory.mktemp("q")))


async def spend_with_two_routers(folder):
    async with ServedMesh(folder, routers=2) as mesh:
        await mesh.new_pool("p")
        quota = tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_MONTH, tokens=QUOTA_TOKENS)
        tenant, key = await mesh.new_tenant("acme", quotas=[quota])
        await mesh.propagated()
        store = EtcdClient(mesh.plane.etcd.channel())

        async def held() -> dict[str, int]:
            """By router, as the books say; they cover what was spent and are within the quota."""
            stored = await store.get(etcd_keys.quota_key(tenant.tenant_uid, "month"))
            account = stored_pb2.StoredQuota.FromString(stored.value if stored else b"")
            slices = {part.router: part.held_units for part in account.slices}
            assert spender.spent_tokens <= account.used_units + sum(slices.values()) <= QUOTA_TOKENS
            return slices

        spender = Spender(key)
        channels = [open_channel(f"unix:{folder}/{name}.sock") for name in ("r1", "r2")]
        stubs = [rpc.InferenceServiceStub(channel) for channel in channels]
        try:
            # The servers are found ready a moment after the config came.
            while len([tokens for tokens in (await held()).values() if tokens > MOST_TOKENS]) < len(stubs):
                await asyncio.gather(*(spender.ask(stub) for stub in stubs))
            await mesh.routers[0].end()
            assert (await held()).get("r1", 0) == 0
            while len(spender.refusals) < AT_ONCE:
                await asyncio.gather(*(spender.ask(stubs[1]) for _ in range(AT_ONCE)))
                await held()
        finally:
            for channel in channels:
                await channel.close()
        # What the first one held was not lost, or that much would be missing here.
        assert QUOTA_TOKENS - AT_ONCE * MOST_TOKENS < spender.spent_tokens <= QUOTA_TOKENS
        refusal = spender.refusals[-1]
        assert refusal.violations[0].subject == "tenants/acme"
        assert refusal.retry_after_seconds is not None
        await mesh.routers[1].end()
        assert sum((await held()).values()) == 0
