"""A reviewer's export over the wire, verified offline; and that a grant opens the one log it names."""

from __future__ import annotations

import json
import os

import grpc
import pytest
import rfc8785
from google.protobuf import timestamp_pb2
from tenantry.audit.v1 import audit_review_service_pb2 as pb
from tenantry.audit.v1 import audit_review_service_pb2_grpc as rpc
from tenantry.audit.v1 import entry_pb2

from services.audit.bundle.pinned_keys import PinnedKeys
from services.audit.bundle.verify import verify_bundle
from services.audit.proofs.entry import NO_ID, Entry, EntryKind, name_digest
from services.audit.rpc import grants
from services.common.clock import SystemClock
from services.common.errors import NotFoundError, UnauthenticatedError
from services.common.tokens import (
    AUDIT_ISSUER,
    Audience,
    Claims,
    TokenIssuer,
    TokenVerifier,
    new_signing_key_pem,
)
from tests.fakes.audit_service import AuditServicePlane, BareStream, append_entry, log_name
from tests.fakes.mutants import replaced
from tests.integration.mesh_access import bearer, failure_of

pytestmark = pytest.mark.integration


@pytest.fixture
async def plane(tmp_path_factory):
    async with AuditServicePlane(tmp_path_factory.mktemp("a")) as running:
        yield running


async def with_logs(plane) -> None:
    """Two tenants' logs: an admit and its outcome each."""
    async with BareStream(plane.append_target) as stream:
        sequence = 0
        for tenant_uid in ("acme", "globex"):
            admit = append_entry(sequence + 1, tenant_uid, f"what of {tenant_uid}?", key_id="key-1")
            outcome = append_entry(
                sequence + 2,
                tenant_uid,
                kind=entry_pb2.ENTRY_KIND_OUTCOME,
                admit_record_id=admit.record_id,
                answer_json=rfc8785.dumps({"text": f"{tenant_uid} it is"}),
            )
            sequence += 2
            await stream.send([admit, outcome])
        await stream.until(lambda: len(stream.receipts) == sequence)


async def test_an_export_verifies_offline_and_holds_what_was_appended(plane, tmp_path):
    await with_logs(plane)
    exported = await plane.export("acme", tmp_path / "acme")
    assert exported.report.good, exported.report.damages
    # Asking for the keys and exporting are entries themselves, and stand in the bundle.
    assert exported.report.counts == {
        **dict.fromkeys(("admit", "dek_open", "log_opened", "outcome"), 1),
        "review": 2,
        "open": 0,
        "unmatched": 0,
    }
    records = [json.loads(line) for line in (exported.folder / "records.jsonl").read_bytes().splitlines()]
    shown = {record["kind"]: record for record in records}
    assert shown["admit"]["prompt"]["payload"] == {"text": "what of acme?"}
    assert shown["outcome"]["answer"]["payload"] == {"text": "acme it is"}
    assert shown["review"]["meta"]["payload"]["action"] == "export"
    assert "globex" not in (exported.folder / "records.jsonl").read_text()


async def test_every_reading_is_an_entry_of_the_log_that_is_read(plane, tmp_path):
    await with_logs(plane)
    grant = await plane.grant("acme")
    async with plane.review_channel() as channel:
        stub = rpc.AuditReviewServiceStub(channel)
        sizes = []
        for _ in range(2):
            request = pb.GetCheckpointRequest(name=log_name("acme"))
            sizes.append((await stub.GetCheckpoint(request, metadata=bearer(grant), timeout=10)).size)
    assert sizes == [5, 6]  # each stands in the checkpoint it asked for
    exported = await plane.export("acme", tmp_path / "acme", grant)
    records = [json.loads(line) for line in (exported.folder / "records.jsonl").read_bytes().splitlines()]
    said = [record["meta"]["payload"] for record in records if record["kind"] == "review"]
    assert [one["action"] for one in said] == ["checkpoint", "checkpoint", "keys", "export"]
    assert len({one["grant_id"] for one in said}) == 1
    other = await plane.export("globex", tmp_path / "globex")
    assert other.report.counts["review"] == 2  # of its own


async def test_an_entry_says_which_session_of_which_writer_appended_it(plane, tmp_path):
    async with BareStream(plane.append_target, session_id=b"s" * 16) as stream:
        await stream.send([append_entry(1, "acme")])
        await stream.until(lambda: stream.receipts)
    exported = await plane.export("acme", tmp_path / "acme")
    lines = (exported.folder / "records.jsonl").read_bytes().splitlines()
    headers = [Entry.decode(bytes.fromhex(json.loads(line)["entry"])).header for line in lines]
    by_kind = {header.kind: (header.session_id, header.writer_digest) for header in headers}
    assert by_kind[EntryKind.ADMIT] == (b"s" * 16, name_digest("w"))
    assert by_kind[EntryKind.LOG_OPENED] == by_kind[EntryKind.REVIEW] == (NO_ID, NO_ID)


async def test_pinned_keys_outlive_restarts_and_verify_no_other_log(plane, tmp_path):
    await with_logs(plane)
    grant = await plane.grant("acme")
    async with plane.review_channel() as channel:
        keys = await rpc.AuditReviewServiceStub(channel).GetVerificationKeys(
            pb.GetVerificationKeysRequest(name=log_name("acme")), metadata=bearer(grant), timeout=10
        )
    pinned = PinnedKeys.parse(keys.log_keys, keys.manifest_keys)
    await plane.service.end()
    await plane.service.start()
    mine = await plane.export("acme", tmp_path / "acme", grant)
    other = await plane.export("globex", tmp_path / "globex")
    assert verify_bundle(mine.folder, pinned).good
    assert other.report.good
    assert not verify_bundle(other.folder, pinned).good


async def test_a_time_window_shows_less_content_and_still_every_entry(plane, tmp_path):
    await with_logs(plane)
    exported = await plane.export("acme", tmp_path / "acme", end_time=timestamp_pb2.Timestamp(seconds=1))
    assert exported.report.good, exported.report.damages
    assert exported.report.size == 6
    assert "what of acme?" not in (exported.folder / "records.jsonl").read_text()
    manifest = json.loads((exported.folder / "manifest.json").read_bytes())
    assert manifest["filters"] == {"end_ns": "1000000000"}


async def read_everything(plane, grant, name) -> list:
    """What each RPC of the review service answers."""
    metadata = bearer(grant) if grant else None
    async with plane.review_channel() as channel:
        stub = rpc.AuditReviewServiceStub(channel)

        async def export():
            async for _ in stub.ExportLog(pb.ExportLogRequest(name=name), metadata=metadata, timeout=10):
                pass

        return [
            await failure_of(stub.GetCheckpoint(pb.GetCheckpointRequest(name=name), metadata=metadata)),
            await failure_of(
                stub.GetVerificationKeys(pb.GetVerificationKeysRequest(name=name), metadata=metadata)
            ),
            await failure_of(export()),
        ]


async def test_another_tenants_grant_is_refused_as_if_there_were_no_such_log(plane):
    await with_logs(plane)
    grant = await plane.grant("globex")
    foreign = await read_everything(plane, grant, log_name("acme"))
    missing = await read_everything(plane, grant, log_name("nobody"))
    assert {failure.code for failure in foreign} == {grpc.StatusCode.NOT_FOUND}
    for one, other in zip(foreign, missing, strict=True):
        assert one.status.SerializeToString() == other.status.SerializeToString()


@pytest.mark.parametrize("forgery", ["none", "own-key", "config-key", "garbage"])
async def test_only_the_audit_services_own_key_makes_a_reviewer(plane, forgery):
    await with_logs(plane)
    issuer = {"own-key": AUDIT_ISSUER, "config-key": "tenantry"}.get(forgery)
    grant = "" if forgery == "none" else "x.y.z"
    if issuer is not None:
        clock = SystemClock()
        forger = TokenIssuer.from_pem(new_signing_key_pem(), issuer)
        claims = Claims("id", "acme", ("review",), int(clock.wall_seconds()) + 600, "", "")
        grant = forger.issue(Audience.REVIEW, claims, int(clock.wall_seconds()))
    failures = await read_everything(plane, grant, log_name("acme"))
    assert {failure.code for failure in failures} == {grpc.StatusCode.UNAUTHENTICATED}


def opened_logs(module, tmp_path) -> set[str]:
    """Of which tenants' logs each of three tenants' grants opens one that is not its own."""
    clock = SystemClock()
    issuer = TokenIssuer.from_pem(new_signing_key_pem(), AUDIT_ISSUER)
    (tmp_path / "jwks.json").write_text(issuer.jwks())
    check = module.GrantCheck(TokenVerifier(tmp_path / "jwks.json", AUDIT_ISSUER, Audience.REVIEW, clock))
    tenants = ["acme", "globex", "acm"]
    opened = set()
    for holder in tenants:
        grant = module.issue_grant(issuer, holder, 60, clock)
        for name in [*tenants, f"{holder}/auditLog/../x", os.urandom(4).hex()]:
            try:
                tenant_uid, _ = check.tenant_uid(f"Bearer {grant}", log_name(name))
            except (NotFoundError, UnauthenticatedError):
                assert name != holder
                continue
            if tenant_uid != holder:
                opened.add(tenant_uid)
    return opened


def test_no_grant_opens_anothers_log(tmp_path):
    assert opened_logs(grants, tmp_path) == set()


def test_that_test_notices_a_check_that_believes_the_request(tmp_path):
    def tenant_uid(check, authorization, name):
        claims = check._verifier.verify(authorization)
        asked = grants._NAME.fullmatch(name)
        if asked is None:
            raise NotFoundError("no such audit log")
        return asked[1], claims.key_id

    believing = replaced(grants, "GrantCheck.tenant_uid", tenant_uid)
    assert {"acme", "globex", "acm"} <= opened_logs(believing, tmp_path)
