"""The audit service as a process, a bare append stream to it, and a reviewer's export of a log."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import rfc8785
from tenantry.audit.v1 import audit_append_service_pb2 as pb
from tenantry.audit.v1 import audit_append_service_pb2_grpc as append_rpc
from tenantry.audit.v1 import audit_review_service_pb2 as review_pb
from tenantry.audit.v1 import audit_review_service_pb2_grpc as review_rpc
from tenantry.audit.v1 import entry_pb2

from services.audit.bundle.pinned_keys import PinnedKeys
from services.audit.bundle.report import VerificationReport
from services.audit.bundle.verify import verify_bundle
from services.common.rpc.channel import open_channel
from tests.fakes.service_process import REPOSITORY, ServiceProcess

DEADLINE_SECONDS = 60.0


def log_name(tenant_uid: str) -> str:
    return f"tenants/{tenant_uid}/auditLog"


@dataclass(frozen=True)
class ExportedLog:
    """A bundle on disk and what a verifier says of it."""

    folder: Path
    report: VerificationReport


class AuditServicePlane:
    """An audit service on a folder of its own; it can end and start again."""

    def __init__(self, folder: Path, module: str = "services.audit", **environment: str) -> None:
        self.state = folder / "state"
        self.log_file = folder / "audit.log"
        self.append_target, self.review_target = f"unix:{folder}/a.sock", f"unix:{folder}/r.sock"
        settings = {
            "TENANTRY_AUDIT_APPEND_LISTEN": self.append_target,
            "TENANTRY_AUDIT_REVIEW_LISTEN": self.review_target,
            "TENANTRY_AUDIT_STATE_DIR": str(self.state),
            **environment,
        }
        self.service = ServiceProcess(module, settings, self.append_target, self.log_file)

    async def __aenter__(self):
        await self.service.start()
        return self

    async def __aexit__(self, *_):
        await self.service.kill()

    @property
    def pid(self) -> int:
        assert self.service.process is not None
        return self.service.process.pid

    async def exit_status(self) -> int:
        """Of a service that ends by itself."""
        assert self.service.process is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.service.process.wait()

    async def grant(self, tenant_uid: str) -> str:
        """A reviewer's grant, by the issuer's own program."""
        arguments = ["--state-dir", str(self.state), "--tenant-uid", tenant_uid]
        issuer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.audit.rpc.issue_grant", *arguments,
            cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await issuer.communicate()
        assert issuer.returncode == 0
        return said.decode().strip()

    def review_channel(self) -> grpc.aio.Channel:
        return open_channel(self.review_target)

    async def export(self, tenant_uid: str, folder: Path, grant: str | None = None, **window) -> ExportedLog:
        """A tenant's log over the review service, verified with keys it gave before."""
        metadata = [("authorization", f"Bearer {grant or await self.grant(tenant_uid)}")]
        async with self.review_channel() as channel:
            stub = review_rpc.AuditReviewServiceStub(channel)
            keys = await stub.GetVerificationKeys(
                review_pb.GetVerificationKeysRequest(name=log_name(tenant_uid)),
                metadata=metadata,
                timeout=DEADLINE_SECONDS,
            )
            call = stub.ExportLog(
                review_pb.ExportLogRequest(name=log_name(tenant_uid), **window),
                metadata=metadata,
                timeout=DEADLINE_SECONDS,
            )
            files: dict[str, bytes] = {}
            async for piece in call:
                files[piece.path] = files.get(piece.path, b"") + piece.data
        await asyncio.to_thread(_write, folder, files)
        pinned = PinnedKeys.parse(keys.log_keys, keys.manifest_keys)
        return ExportedLog(folder, verify_bundle(folder, pinned))


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def append_entry(sequence: int, tenant_uid: str, text: str = "x", **fields) -> entry_pb2.AppendEntry:
    fields.setdefault("record_id", os.urandom(16))
    fields.setdefault("kind", entry_pb2.ENTRY_KIND_ADMIT)
    fields.setdefault("meta_json", rfc8785.dumps({"sequence": sequence}))
    fields.setdefault("prompt_json", rfc8785.dumps({"text": text}))
    return entry_pb2.AppendEntry(sequence=sequence, tenant_uid=tenant_uid, **fields)


class BareStream:
    """One append stream that never reconnects and never sends anything twice."""

    def __init__(self, target: str, receipts=(), session_id: bytes | None = None) -> None:
        self.acks: dict[int, pb.Ack] = {}
        self._channel = open_channel(target)
        hello = pb.SessionHello(
            writer="w", session_id=session_id or os.urandom(16), newest_receipts=list(receipts)
        )
        self._hello = pb.AppendRequest(hello=hello)
        self._changed = asyncio.Event()
        self.ended = False

    async def __aenter__(self):
        self._call = append_rpc.AuditAppendServiceStub(self._channel).Append()
        try:
            await self._call.write(self._hello)
            welcome = await self._call.read()
        except grpc.RpcError:
            await self._channel.close()
            raise
        assert welcome.HasField("welcome")
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_):
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._call.cancel()
        await self._channel.close()

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self.acks.update({ack.sequence: ack for ack in response.acks.acks})
                self._changed.set()
        except grpc.RpcError:
            pass
        finally:
            self.ended = True
            self._changed.set()

    async def send(self, entries) -> bool:
        """False when the stream is over."""
        try:
            await self._call.write(pb.AppendRequest(batch=pb.EntryBatch(entries=entries)))
        except (grpc.RpcError, asyncio.InvalidStateError):
            return False
        return not self.ended

    async def finish(self) -> None:
        await self._call.done_writing()

    async def until(self, condition) -> None:
        """Wait for acks until a condition holds or the stream is over."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition() and not self.ended:
                self._changed.clear()
                await self._changed.wait()

    async def until_ended(self) -> None:
        await self.until(lambda: False)

    @property
    def receipts(self) -> dict[int, entry_pb2.Receipt]:
        return {sequence: ack.receipt for sequence, ack in self.acks.items() if ack.HasField("receipt")}
