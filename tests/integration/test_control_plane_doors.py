"""What an operator's key does not open: the mesh's own services, and any tenant's audit content."""

from __future__ import annotations

import asyncio
import secrets
import time

import grpc
import pytest
import pytest_asyncio
from tenantry.audit.v1 import audit_append_service_pb2_grpc as append_rpc
from tenantry.audit.v1 import audit_review_service_pb2 as review_pb
from tenantry.audit.v1 import audit_review_service_pb2_grpc as review_rpc
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc as discovery_rpc
from tenantry.config.v1 import credential_pb2
from tenantry.config.v1 import quota_lease_service_pb2 as quota_pb
from tenantry.config.v1 import quota_lease_service_pb2_grpc as quota_rpc

from services.common.rpc.channel import open_channel
from services.common.tokens import AUDIT_ISSUER, CONFIG_ISSUER, Audience, Claims, TokenIssuer
from tests.integration.mesh_access import bearer, failure_of

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

PLATFORM, TENANT = credential_pb2.OPERATOR_ROLE_PLATFORM_ADMIN, credential_pb2.OPERATOR_ROLE_TENANT_ADMIN


@pytest_asyncio.fixture(loop_scope="session")
async def operators_keys(mesh):
    """The first platform-admin's, another's, and a tenant-admin's."""
    keys = [mesh.operator_key]
    for role, role_tenant in ((PLATFORM, ""), (TENANT, f"tenants/{mesh.tenants[0]}")):
        key = credential_pb2.Key(role=role, role_tenant=role_tenant)
        request = admin_pb.CreateKeyRequest(parent=f"operators/{secrets.token_hex(4)}", key=key)
        keys.append((await mesh.admin("CreateKey", request)).secret)
    return keys


def every_reading(review, tenant_uid, key):
    """A call of each method of the review service."""
    name, options = f"tenants/{tenant_uid}/auditLog", {"metadata": bearer(key), "timeout": 10}
    yield review.GetCheckpoint(review_pb.GetCheckpointRequest(name=name), **options)
    yield review.GetVerificationKeys(review_pb.GetVerificationKeysRequest(name=name), **options)
    yield review.ExportLog(review_pb.ExportLogRequest(name=name), **options).read()


async def refusal(call):
    """The status of a stream that ends without a message: a service that is there would miss its first one."""
    return await asyncio.wait_for(call.code(), 5)


async def test_the_meshs_own_services_are_not_behind_the_operators_door(mesh, operators_keys):
    channel = mesh.access.operations_channel
    for key in operators_keys:
        metadata = bearer(key)
        call = discovery_rpc.ConfigDiscoveryServiceStub(channel).StreamSnapshots(
            iter([]), metadata=metadata, timeout=5
        )
        assert await refusal(call) is grpc.StatusCode.UNIMPLEMENTED
        append = append_rpc.AuditAppendServiceStub(channel).Append(iter([]), metadata=metadata, timeout=5)
        assert await refusal(append) is grpc.StatusCode.UNIMPLEMENTED
        lease = quota_rpc.QuotaLeaseServiceStub(channel).LeaseQuotas(
            quota_pb.LeaseQuotasRequest(router="r", session_id="s"), metadata=metadata, timeout=5
        )
        assert (await failure_of(lease)).code is grpc.StatusCode.UNIMPLEMENTED


async def test_no_operators_key_reads_audit_content(mesh, operators_keys):
    for tenant in mesh.tenants:
        for key in operators_keys:
            for reading in every_reading(mesh.access.review, mesh.tenant_uid(tenant), key):
                assert (await failure_of(reading)).code is grpc.StatusCode.UNAUTHENTICATED


async def test_no_operator_issues_itself_a_reviewers_grant(mesh, operators_keys):
    uid = mesh.tenant_uid(mesh.tenants[0])
    for parent, key in (
        (f"tenants/{mesh.tenants[0]}", credential_pb2.Key(scopes=["review"])),
        (f"tenants/{mesh.tenants[0]}", credential_pb2.Key(scopes=["inference", "review"])),
        ("operators/eve", credential_pb2.Key(role=PLATFORM, scopes=["review"])),
        (f"tenants/{uid}/auditLog", credential_pb2.Key()),
        ("reviewers/eve", credential_pb2.Key(scopes=["review"])),
    ):
        failure = await failure_of(mesh.admin("CreateKey", admin_pb.CreateKeyRequest(parent=parent, key=key)))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT, (parent, failure)


async def test_not_even_the_config_services_signing_key_makes_a_grant(mesh):
    """What a platform-admin could sign at most: by the edge, and by the audit service itself behind it."""
    uid = mesh.tenant_uid(mesh.tenants[0])
    pem = (mesh.layout.config_dir / "tokens.pem").read_bytes()
    now = int(time.time())
    claims = Claims("self-made", uid, ("review",), now + 600, "", "")
    async with open_channel(mesh.layout.target("audit-review")) as behind:
        for review in (mesh.access.review, review_rpc.AuditReviewServiceStub(behind)):
            for issuer in (CONFIG_ISSUER, AUDIT_ISSUER):
                for audience in (Audience.REVIEW, Audience.OPERATOR):
                    grant = TokenIssuer.from_pem(pem, issuer).issue(audience, claims, now)
                    for reading in every_reading(review, uid, grant):
                        assert (await failure_of(reading)).code is grpc.StatusCode.UNAUTHENTICATED
            # The same readings under a grant of the audit service's own.
            for reading in every_reading(review, uid, mesh.grant(mesh.tenants[0])):
                assert await reading
