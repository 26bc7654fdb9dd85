"""Each demo tenant asks one question through the edge; a reviewer then exports one log and verifies it offline."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path

from services.audit.bundle.pinned_keys import PinnedKeys
from services.audit.bundle.report import VerificationReport
from services.audit.bundle.verify import verify_bundle
from services.cli.clients.inference import InferenceClient
from services.cli.clients.listener import Listener
from services.cli.clients.review import ReviewClient
from services.cli.demo.answer import Answer
from services.cli.review.bundle_folder import BundleFolder
from services.cli.terminal.conversation import AskingOptions, Conversation
from services.common.errors import InternalError, NotFoundError, UnauthenticatedError, UnavailableError

QUESTION = "What is the capital of Germany?"
_MAX_TOKENS = 32
_SETTLE_SECONDS = 20.0


async def ask(listener: Listener, key: str, tenant: str) -> Answer:
    """Ask as a tenant. A mesh that has just started gets time to apply its config.

    Raises:
        Error: the mesh refused for longer than that time.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            return await _ask_once(listener, key, tenant)
        except (UnavailableError, UnauthenticatedError, NotFoundError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def _ask_once(listener: Listener, key: str, tenant: str) -> Answer:
    request = Conversation(AskingOptions(max_output_tokens=_MAX_TOKENS)).request(QUESTION)
    pieces: list[str] = []
    first, final = 0.0, None
    async with InferenceClient.connect(listener, key) as client:
        started = time.perf_counter()
        async with aclosing(client.stream_generate(request)) as events:
            async for event in events:
                if event.WhichOneof("event") == "delta":
                    first = first or time.perf_counter()
                    pieces.append(event.delta.text)
                else:
                    final = event.final
        ended = time.perf_counter()
    if final is None:
        raise InternalError("the stream ended before the answer did")
    first = first or ended
    generating_seconds = max(ended - first, 1e-3)
    return Answer(
        tenant=tenant,
        adapter=final.provenance.adapter,
        config_version=final.provenance.config_version,
        first_token_ms=round((first - started) * 1000, 1),
        tokens_per_second=round(max(final.usage.output_tokens - 1, 0) / generating_seconds, 1),
        text="".join(pieces).strip(),
    )


async def export(listener: Listener, grant: str, tenant_uid: str, directory: Path) -> PinnedKeys:
    """Export a tenant's log as a reviewer does; returns the keys to verify it with."""
    async with ReviewClient.connect(listener, grant) as review:
        keys = await review.get_verification_keys(tenant_uid)
        with BundleFolder(directory) as folder:
            async with aclosing(review.export_log(tenant_uid, timeout_seconds=60)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(folder.add, piece.path, piece.data, last=piece.last)
            folder.finish()
    return PinnedKeys.parse(keys.log_keys, keys.manifest_keys)


async def verify(directory: Path, keys: PinnedKeys) -> VerificationReport:
    """Verify offline."""
    return await asyncio.to_thread(verify_bundle, directory, keys)
