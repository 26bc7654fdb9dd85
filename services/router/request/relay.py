"""Relays one answer: decodes tokens, looks for stop sequences, counts. Every token goes through this loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.common.clock import Clock
from services.common.errors import Reason, UnavailableError
from services.router.backends.backend import TokenChunk
from services.router.flow.grant import Grant
from services.router.request.admission import Reservation
from services.router.request.outbox import Outbox
from services.router.stages import Admitted, FinishReason
from services.router.text.detokenisation import Detokeniser
from services.router.text.stop_sequences import StopMatcher


async def relay(
    admitted: Admitted,
    chunks: AsyncGenerator[TokenChunk, None],
    grant: Grant,
    reservation: Reservation,
    outbox: Outbox | None,
    clock: Clock,
) -> FinishReason:
    """Relay to the end, into the request's `generation`; leaving early cancels the work at the server.

    Raises:
        UnavailableError: the server ended without an answer.
    """
    shape, generation = admitted.shaped.shape, admitted.generation
    detokeniser = Detokeniser(shape.base_model.text.tokeniser.token_bytes)
    matcher = StopMatcher(shape.parameters.stop_sequences)
    # With stop sequences the token that completes one must be found; without, a chunk is taken whole.
    by_token = bool(shape.parameters.stop_sequences)
    text_parts = generation.text_parts
    async with aclosing(chunks):
        async for chunk in chunks:
            ids = chunk.token_ids
            if ids and generation.first_token_at is None:
                generation.first_token_at = clock.monotonic_seconds()
            for group in [(token_id,) for token_id in ids] if by_token else [ids] if ids else []:
                generation.output_tokens += len(group)
                grant.charge(len(group))
                reservation.use(generation.charged_input_tokens, generation.output_tokens)
                found = matcher.feed(detokeniser.feed(group))
                if found.text:
                    text_parts.append(found.text)
                    if outbox is not None:
                        await outbox.put(found.text, generation.output_tokens)
                if found.stopped:
                    return FinishReason.STOP_SEQUENCE
            if chunk.final:
                break
        else:
            raise UnavailableError(
                "the model server ended without an answer", reason=Reason.MODEL_SERVER_FAILED
            )
    last = matcher.feed(detokeniser.finish())
    rest = last.text if last.stopped else last.text + matcher.finish()
    if rest:
        text_parts.append(rest)
        if outbox is not None:
            await outbox.put(rest, generation.output_tokens)
    if last.stopped:
        return FinishReason.STOP_SEQUENCE
    # The dialect has no finish reason: as many tokens as allowed mean the limit, fewer the end token.
    return (
        FinishReason.LENGTH
        if generation.output_tokens >= admitted.shaped.cost.max_output_tokens
        else FinishReason.END
    )
