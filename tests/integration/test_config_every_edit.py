"""Every admin RPC once, through two config services at once, over a real etcd and a real audit service.

Nobody wrote around the operator log: no alarm is raised, and every intent in the exported log has its outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import config_admin_service_pb2_grpc as admin_rpc
from tenantry.config.v1 import credential_pb2

from services.audit.proofs.entry import Entry, EntryKind
from services.common.rpc.channel import open_channel
from tests.fakes.audit_service import AuditServicePlane
from tests.fakes.config_service import ConfigServicePlane
from tests.fakes.ports import own_ports
from tests.fakes.service_process import ServiceProcess

pytestmark = pytest.mark.integration
ACME = "tenants/acme"
EDITS = {
    *("CreateTenant", "UpdateTenant", "RollbackTenant", "SuspendTenant", "ResumeTenant", "DeleteTenant"),
    *("CreateKey", "RevokeKey", "RegisterAdapter", "CreateBaseModel", "CreatePool", "UpdatePool"),
    "DeleteBaseModel",
}
ALARM = re.compile(r"^tenantry_config_unannounced_revisions_total (\S+)$", re.MULTILINE)


@dataclass
class Service:
    """One config service: its process, where it listens, and where its metrics are."""

    process: ServiceProcess
    target: str
    metrics: str
    metrics_token_path: Path

    async def alarms(self):
        token = {"authorization": f"Bearer {self.metrics_token_path.read_text()}"}
        request = urllib.request.Request(f"http://{self.metrics}/metrics", headers=token)
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=5).read().decode())
        return float(ALARM.search(text)[1])


class Two(ConfigServicePlane):
    """Its calls go to two config services in turn."""

    def __init__(self, folder: Path, audit: AuditServicePlane) -> None:
        super().__init__(folder)
        self.log = audit
        self.services = [self._service(name) for name in ("one", "two")]

    def _service(self, name):
        admin, metrics = f"unix:{self.folder}/{name}.sock", f"127.0.0.1:{own_ports(1)[0]}"
        settings = {
            "TENANTRY_CONFIG_ADMIN_LISTEN": admin,
            "TENANTRY_CONFIG_DISCOVERY_LISTEN": f"unix:{self.folder}/{name}-d.sock",
            "TENANTRY_CONFIG_ETCD_TARGET": self.etcd.target,
            "TENANTRY_CONFIG_AUDIT_TARGET": self.log.append_target,
            "TENANTRY_CONFIG_STATE_DIR": str(self.folder / name),
            "TENANTRY_CONFIG_ARTIFACT_DIR": str(self.folder / "artifacts"),
            "TENANTRY_CONFIG_METRICS_ADDRESS": metrics,
            "TENANTRY_CONFIG_METRICS_TOKEN_PATH": str(self.folder / "metrics-token"),
        }
        log = self.folder / f"{name}.log"
        process = ServiceProcess("services.config", settings, admin, log)
        return Service(process, admin, metrics, self.folder / "metrics-token")

    async def __aenter__(self):
        await self.etcd.start()
        one, two = self.services
        await one.process.start()
        shutil.copytree(self.folder / "one", self.folder / "two")
        await two.process.start()
        self.operator = (self.folder / "one" / "operator.key").read_text().strip()
        self.channels = [open_channel(service.target) for service in self.services]
        self.stubs = [admin_rpc.ConfigAdminServiceStub(channel) for channel in self.channels]
        self.admin, self.turn, self.called = self.stubs[0], 0, {"RegisterAdapter"}
        return self

    async def __aexit__(self, *_):
        for channel in self.channels:
            await channel.close()
        for service in self.services:
            await service.process.kill()
        await self.etcd.kill()

    async def call(self, method, request, key=None, timeout_seconds=10):
        """Through the service whose turn it is; the other may lag a moment behind what was written just now."""
        self.called.add(method)
        self.turn += 1
        self.admin = self.stubs[self.turn % 2]
        async with asyncio.timeout(20):
            while True:
                try:
                    return await super().call(method, request, key, timeout_seconds)
                except grpc.RpcError as error:
                    codes = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE}
                    lag = {*codes, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
                    if error.code() not in lag:
                        raise
                self.turn += 1
                self.admin = self.stubs[self.turn % 2]


@pytest.fixture
async def plane(tmp_path_factory):
    folder = tmp_path_factory.mktemp("p")
    (folder / "log").mkdir()
    async with AuditServicePlane(folder / "log") as audit, Two(folder, audit) as running:
        yield running


async def edit_everything(plane):
    await plane.with_catalog()
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/p"))
    pool.capacity.queued_requests += 1
    await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool))
    for method in ("ListPools", "ListBaseModels", "ListTenants", "ListRouters"):
        await plane.call(method, getattr(pb, f"{method}Request")())
    model = await plane.call("GetBaseModel", pb.GetBaseModelRequest(name="models/m"))
    await plane.call("CreateBaseModel", pb.CreateBaseModelRequest(base_model_id="spare", base_model=model))
    await plane.call("DeleteBaseModel", pb.DeleteBaseModelRequest(name="models/spare"))
    await plane.new_tenant("acme", "one")
    await plane.register("acme")
    await plane.call("GetAdapter", pb.GetAdapterRequest(name=f"{ACME}/adapters/pirate"))
    await plane.call("ListAdapters", pb.ListAdaptersRequest(parent=ACME))
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name=ACME))
    tenant.config.models.add(alias="pirate", base_model="models/m", adapter="pirate")
    tried = pb.UpdateTenantRequest(tenant=tenant, validate_only=True)
    await plane.call("UpdateTenant", tried)
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant, reason="why not"))
    await plane.call("ListTenantVersions", pb.ListTenantVersionsRequest(parent=ACME))
    await plane.call("GetTenantVersion", pb.GetTenantVersionRequest(name=f"{ACME}/versions/1"))
    await plane.call("GetTenantUsage", pb.GetTenantUsageRequest(name=ACME))
    await plane.call("DiffTenantVersions", pb.DiffTenantVersionsRequest(name=ACME, before_version=1))
    await plane.call("RollbackTenant", pb.RollbackTenantRequest(name=ACME, version=1))
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name=ACME))
    await plane.call("ResumeTenant", pb.ResumeTenantRequest(name=ACME))
    await plane.call("WaitForPropagation", pb.WaitForPropagationRequest())
    alice = credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant=ACME)
    made = await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/alice", key=alice))
    await plane.call("RevokeKey", pb.RevokeKeyRequest(name=made.key.name))
    await asyncio.gather(
        *(plane.call("CreateKey", pb.CreateKeyRequest(parent=ACME)) for _ in range(60)),
        *(plane.new_tenant(f"t{number}") for number in range(6)),
    )
    await plane.call("ListKeys", pb.ListKeysRequest(parent=ACME))
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name=ACME))
    await plane.call("DeleteTenant", pb.DeleteTenantRequest(name=ACME))


async def give_up_on_edits(plane):
    """Callers that go away at any moment of an edit."""

    async def given_up(number):
        call = asyncio.create_task(plane.new_tenant(f"given-up-{number}"))
        with contextlib.suppress(TimeoutError, grpc.RpcError):
            async with asyncio.timeout(0.001 * number):
                await call

    await asyncio.gather(*(given_up(number) for number in range(24)))


def outcomes_of(exported):
    """What is said of each intent, by record id; and the methods that were intended."""
    said, methods = {}, set()
    for line in (exported.folder / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        header = Entry.decode(bytes.fromhex(record["entry"])).header
        if header.kind is EntryKind.ADMIN_INTENT:
            said[header.record_id] = []
            methods.add(record["meta"]["payload"]["method"])
        elif header.kind is EntryKind.ADMIN_OUTCOME:
            said[header.admit_record_id].append(record["meta"]["payload"])
    return said, methods


async def test_no_edit_raises_the_alarm_and_every_intent_has_an_outcome(plane, tmp_path):
    await edit_everything(plane)
    methods = {m for m in dir(admin_rpc.ConfigAdminServiceServicer) if m[0].isupper()}
    assert plane.called == methods
    await give_up_on_edits(plane)
    one, two = plane.services
    assert await one.alarms() == 0.0
    assert await one.process.end() == 0
    await plane.new_tenant("while-one-is-away")
    await one.process.start()
    await plane.new_tenant("after-a-restart")
    await plane.call("WaitForPropagation", pb.WaitForPropagationRequest())
    assert [await service.alarms() for service in plane.services] == [0.0, 0.0]
    assert await one.process.end() == 0
    assert await two.process.end() == 0
    exported = await plane.log.export("operators", tmp_path / "operators")
    assert exported.report.good, exported.report.damages
    said, methods = outcomes_of(exported)
    assert methods == EDITS
    assert all(said.values()), "an intent without an outcome"
    written = [
        one["revision"] for outcomes in said.values() for one in outcomes if one["outcome"] == "written"
    ]
    assert len(written) == len(set(written)), "told twice, it is one entry"
