"""Streams that are opened and dropped, through every router of a fleet."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
from tenantry.inference.v1 import inference_service_pb2 as pb
from tenantry.inference.v1 import inference_service_pb2_grpc as rpc

from services.common.rpc.channel import open_channel
from tests.fakes.flow_fleet import NAMES, FlowFleet
from tests.fakes.patience import PATIENCE_SECONDS
from tests.integration.mesh_access import bearer, question

AT_ONCE = 48
LONG_TOKENS = 2000


@dataclass
class Storm:
    """What came of it."""

    dropped: int = 0
    """Streams that were cancelled after their first token, or before it."""
    refused: int = 0
    grown_bytes: int = 0
    """By how much the largest router grew."""


def resident_bytes(pid: int) -> int:
    """A process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


async def storm(fleet: FlowFleet, key: str, streams: int) -> Storm:
    """Open streams and drop them, every third before its first token; until the server works for none of them."""
    result, numbers = Storm(), iter(range(streams))
    async with AsyncExitStack() as stack:
        stubs = [
            rpc.InferenceServiceStub(await stack.enter_async_context(open_channel(fleet.target(name))))
            for name in NAMES
        ]

        async def client() -> None:
            for number in numbers:
                stub = stubs[number % len(stubs)]
                call = stub.StreamGenerate(long_request(), metadata=bearer(key), timeout=PATIENCE_SECONDS)
                try:
                    if number % 3:
                        await call.read()
                    else:
                        await call.wait_for_connection()
                except grpc.aio.AioRpcError:
                    result.refused += 1
                else:
                    result.dropped += 1
                finally:
                    call.cancel()

        before = {name: resident_bytes(fleet.pid(name)) for name in NAMES}
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await fleet.triton.idle.wait()
        result.grown_bytes = max(resident_bytes(fleet.pid(name)) - before[name] for name in NAMES)
    return result


async def at_once(fleet: FlowFleet, key: str, requests: int) -> int:
    """How many requests of so many run at the server at one time."""
    async with AsyncExitStack() as stack:
        calls = []
        for number in range(requests):
            channel = await stack.enter_async_context(open_channel(fleet.target(NAMES[number % len(NAMES)])))
            stub = rpc.InferenceServiceStub(channel)
            call = stub.StreamGenerate(long_request(), metadata=bearer(key), timeout=PATIENCE_SECONDS)
            stack.callback(call.cancel)
            calls.append(call)
        first = await asyncio.gather(*(call.read() for call in calls), return_exceptions=True)
        running = fleet.triton.counts.running
        assert sum(isinstance(one, pb.StreamGenerateResponse) for one in first) == running
    async with asyncio.timeout(PATIENCE_SECONDS):
        await fleet.triton.idle.wait()
    return running


def long_request() -> pb.GenerateRequest:
    """An answer that lasts longer than anyone waits for it."""
    return question("hi", parameters=pb.SamplingParameters(max_output_tokens=LONG_TOKENS))
