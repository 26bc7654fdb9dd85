"""The router as a real process between scripted neighbours: how it stops."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from tenantry.audit.v1 import audit_append_service_pb2_grpc as audit_rpc
from tenantry.audit.v1 import entry_pb2
from tenantry.config.v1 import config_discovery_service_pb2_grpc as config_rpc
from tenantry.inference.v1 import inference_service_pb2 as pb
from tenantry.inference.v1 import inference_service_pb2_grpc as rpc

from services.common.artifacts import DirectoryArtifactStore
from services.common.errors import Reason
from services.common.rpc.channel import open_channel
from services.common.rpc.status import from_status
from services.common.tokens import CONFIG_ISSUER, Audience, Claims, TokenIssuer, new_signing_key_pem
from tests.fakes.kserve_script import ScriptedKServe, serve_kserve, tokens
from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.router_config import FAR_FUTURE_SECONDS, ConfigWorld, ScriptedConfigService
from tests.fakes.router_pipeline import question
from tests.fakes.scripted_audit import ScriptedAuditService
from tests.fakes.service_process import ServiceProcess
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json


class Neighbours:
    """A config service, an audit service and a model server around one router process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.goes_on = asyncio.Event()
        self.begun = asyncio.Event()
        self.triton = ScriptedKServe(self._scene)
        self.config, self.audit = ScriptedConfigService(), ScriptedAuditService()
        self.servers: list[grpc.aio.Server] = []

    async def _scene(self, request: Any, send: Any) -> None:
        await send(tokens(request.id, [ord("A")]))
        self.begun.set()
        await self.goes_on.wait()
        await send(tokens(request.id, [ord("B")], final=True))

    async def start(self) -> None:
        for name, register in (
            ("config", lambda s: config_rpc.add_ConfigDiscoveryServiceServicer_to_server(self.config, s)),
            ("audit", lambda s: audit_rpc.add_AuditAppendServiceServicer_to_server(self.audit, s)),
        ):
            server = grpc.aio.server()
            register(server)
            server.add_insecure_port(self.target(name))
            await server.start()
            self.servers.append(server)
        self.servers.append(await serve_kserve(self.target("triton"), self.triton))
        artifacts = DirectoryArtifactStore(self.folder / "artifacts")
        world = ConfigWorld(
            artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
        )
        world.base_model()
        world.pool([self.target("triton")])
        world.key(world.tenant("acme", 7), "key-1")
        await self.config.push(world.resources)

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop(0) for server in self.servers))

    def target(self, name: str) -> str:
        return f"unix:{self.folder}/{name}.sock"

    def process(self) -> ServiceProcess:
        issuer = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
        (self.folder / "jwks.json").write_text(issuer.jwks())
        claims = Claims(
            key_id="key-1",
            subject="uid-acme",
            scopes=(),
            expire_seconds=FAR_FUTURE_SECONDS,
            role="",
            role_tenant_uid="",
        )
        self.metadata = (("authorization", "Bearer " + issuer.issue(Audience.INFERENCE, claims, 1)),)
        settings = {
            "LISTEN": self.target("router"),
            "CONFIG_TARGET": self.target("config"),
            "AUDIT_TARGET": self.target("audit"),
            "ARTIFACT_DIR": str(self.folder / "artifacts"),
            "JWKS_PATH": str(self.folder / "jwks.json"),
            "DRAIN_SECONDS": "1",
        }
        return ServiceProcess(
            "services.router",
            {f"TENANTRY_ROUTER_{name}": value for name, value in settings.items()},
            self.target("router"),
            self.folder / "router.log",
        )


@asynccontextmanager
async def mesh(folder):
    neighbours = Neighbours(folder)
    await neighbours.start()
    try:
        async with neighbours.process() as router, open_channel(neighbours.target("router")) as channel:
            yield neighbours, router, rpc.InferenceServiceStub(channel)
    finally:
        await neighbours.stop()


async def begun(neighbours: Neighbours, stub: Any) -> asyncio.Task[list[pb.StreamGenerateResponse]]:
    """A running stream whose first token came from the model server."""

    async def whole() -> list[pb.StreamGenerateResponse]:
        call = stub.StreamGenerate(
            question("hello"), metadata=neighbours.metadata, timeout=30, wait_for_ready=True
        )
        return [message async for message in call]

    async with asyncio.timeout(10):
        while True:
            running = asyncio.create_task(whole())
            waiting = asyncio.create_task(neighbours.begun.wait())
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if neighbours.begun.is_set():
                return running
            # Not probed yet: NO_READY_ENDPOINT.
            assert isinstance(running.exception(), grpc.aio.AioRpcError)


def outcomes(neighbours: Neighbours) -> list[bytes]:
    entries = neighbours.audit.entries
    return [entry.meta_json for entry in entries if entry.kind == entry_pb2.ENTRY_KIND_OUTCOME]


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailing = error.trailing_metadata()
    (raw,) = [value for key, value in trailing or () if key == "grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    return status_pb2.Status.FromString(raw)


async def test_sigterm_lets_what_runs_end(tmp_path):
    async with mesh(tmp_path) as (neighbours, router, stub):
        running = await begun(neighbours, stub)
        ending = asyncio.create_task(router.end(signal.SIGTERM))
        await asyncio.sleep(0)
        neighbours.goes_on.set()
        answers = await asyncio.wait_for(running, PATIENCE_SECONDS)
        assert answers[-1].HasField("final")
        assert await ending == 0
        (outcome,) = outcomes(neighbours)
        assert b'"status":"OK"' in outcome


async def test_sigterm_ends_what_runs_too_long_and_records_it(tmp_path):
    async with mesh(tmp_path) as (neighbours, router, stub):
        running = await begun(neighbours, stub)
        assert await router.end(signal.SIGTERM) == 0
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await running
        told = from_status(status_of(error.value))
        assert (told.reason, told.retry_after_seconds is not None) == (Reason.SHUTTING_DOWN, True)
        await asyncio.wait_for(neighbours.triton.stopped.wait(), PATIENCE_SECONDS)
        (outcome,) = outcomes(neighbours)
        assert b'"status":"SHUTTING_DOWN"' in outcome


@pytest.mark.parametrize(("number", "goodbyes"), [(signal.SIGTERM, 1), (signal.SIGKILL, 0)])
async def test_a_router_says_goodbye_to_the_config_service_when_it_stops_cleanly(tmp_path, number, goodbyes):
    async with mesh(tmp_path) as (neighbours, router, _):
        await router.end(number)
        assert neighbours.config.goodbyes == goodbyes
        assert len(neighbours.config.hellos) == 1


async def test_a_router_whose_neighbours_go_at_the_same_moment_still_stops(tmp_path):
    async with mesh(tmp_path) as (neighbours, router, stub):
        running = await begun(neighbours, stub)
        stopped = asyncio.create_task(neighbours.stop())
        assert await router.end(signal.SIGTERM) == 0
        await stopped
        with pytest.raises(grpc.aio.AioRpcError):
            await running


async def test_a_model_server_that_goes_mid_stream_ends_it_at_once(tmp_path):
    async with mesh(tmp_path) as (neighbours, _, stub):
        running = await begun(neighbours, stub)
        await neighbours.servers[-1].stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asyncio.wait_for(running, PATIENCE_SECONDS)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
