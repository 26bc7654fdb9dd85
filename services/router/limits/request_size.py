"""Limits the size of one request: bytes of text, tokens of its prompt, tokens of its answer. Pure."""

from __future__ import annotations

from collections.abc import Callable

from services.common.errors import FieldViolation, InvalidArgumentError
from services.router.pool.demand import Cost
from services.router.snapshot.model import Tenant
from services.router.stages import Shape

INPUT_BYTES, INPUT_TOKENS = "limits.input_bytes", "limits.input_tokens"
Shadowed = Callable[[str], object]
"""Takes the name of a limit in shadow mode that would have refused the request."""


def check_input_bytes(field_path: str, actual_bytes: int, tenant: Tenant, shadowed: Shadowed) -> None:
    """Refuse a request with too much text.

    Raises:
        InvalidArgumentError: names limit and actual.
    """
    most = tenant.limits.input_bytes
    if actual_bytes <= most:
        return
    if INPUT_BYTES in tenant.shadow_limits:
        shadowed(INPUT_BYTES)
        return
    raise InvalidArgumentError(
        [FieldViolation(field_path, f"{actual_bytes} bytes of text; at most {most}")],
        metadata={"limit": INPUT_BYTES},
    )


def cost_of(tenant: Tenant, shape: Shape, input_tokens: int, shadowed: Shadowed) -> Cost:
    """The most a request can use; the answer takes no more than the prompt leaves of the context.

    Raises:
        InvalidArgumentError: the prompt is too long; names limit and actual.
    """
    most, context = tenant.limits.input_tokens, shape.base_model.context_tokens
    if most is not None and input_tokens > most and INPUT_TOKENS in tenant.shadow_limits:
        shadowed(INPUT_TOKENS)
        most = None
    limit = context - 1 if most is None else min(context - 1, most)
    if input_tokens > limit:
        raise InvalidArgumentError(
            [FieldViolation(shape.prompt.field, f"{input_tokens} tokens once rendered; at most {limit}")],
            metadata={} if limit == context - 1 else {"limit": INPUT_TOKENS},
        )
    return Cost(input_tokens, min(shape.parameters.max_output_tokens, context - input_tokens))
