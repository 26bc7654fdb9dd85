"""The router's stream backend, speaking to a server that plays a scene."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager

from services.router.backends.backend import AdapterUse, DispatchRequest
from services.router.backends.channels import EndpointChannels
from services.router.backends.triton_stream import TritonStreamBackend
from services.router.stages import Parameters
from tests.fakes.kserve_script import ScriptedKServe, serve_kserve

LORA_ID = (7 << 40) | 1
REQUEST = DispatchRequest(
    "id-1", "tensorrt_llm", [5, 6], Parameters(16, 0.0, 1.0, 0, 5, ()), 2, 2, AdapterUse(LORA_ID, 7, None)
)


@asynccontextmanager
async def speaking_to(folder, scene):
    target = f"unix:{folder}/kserve.sock"
    servicer = ScriptedKServe(scene)
    server = await serve_kserve(target, servicer)
    try:
        async with EndpointChannels(None) as channels, TritonStreamBackend(channels, 0.5) as backend:
            yield servicer, backend, target
    finally:
        await server.stop(0)


async def everything(backend, target, timeout_seconds=5.0):
    async with aclosing(backend.generate(target, REQUEST, timeout_seconds)) as chunks:
        return [chunk async for chunk in chunks]
