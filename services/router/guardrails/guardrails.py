"""Denies or redacts what callers ask and what models answer, by their tenants' guardrails.

Patterns are compiled on first use, in a thread and in turns a tenant, into a cache of so many bytes that tenants with
the same patterns share. A search that is short for any text of its length runs in place. A longer one runs in a thread,
one at a time for each tenant, so that no patterns block the event loop and no tenant takes every thread. Several
tenants together may take them all: then a long search waits for one of theirs. A short one waits for none, since
compiling has its own thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.common.clock import Clock
from services.common.errors import FailedPreconditionError, Reason
from services.router.guardrails.pattern_cache import PatternCache
from services.router.guardrails.pattern_sets import PatternSet, compile_patterns
from services.router.guardrails.redaction import CLEAN, Verdict, find, redact, verdict
from services.router.snapshot.model import StageRules, Tenant
from services.router.tenant_threads import TenantThreads

_KEPT_BYTES = 128 << 20
"""Room for the sets of 10,000 tenants with some rules each."""
_THREADS = 4
# Text bytes times instructions; at worst 10 ns each: 2 ms.
_IN_PLACE_STEPS = 200_000
# What another text costs, in bytes of text: a call.
_TEXT_BYTES = 8


class Guardrails:
    """The guardrails of all tenants in this process."""

    def __init__(self, clock: Clock, kept_bytes: int = _KEPT_BYTES) -> None:
        self._clock = clock
        self._compiled = PatternCache(kept_bytes)
        self._compiling: dict[tuple[str, bytes], asyncio.Task[PatternSet]] = {}
        """By tenant and key: a tenant waits in its own turn, also for patterns that another one compiles."""
        # Threads start with their first use: a router's tenants may have no guardrails at all.
        self._threads = TenantThreads(_THREADS, "guard")
        self._compiler = TenantThreads(1, "guard-compile")

    def close(self) -> None:
        """Let each thread finish its search and end."""
        self._threads.close()
        self._compiler.close()
        for compiling in self._compiling.values():
            compiling.cancel()

    async def check_input(self, tenant: Tenant, texts: Sequence[str]) -> Verdict:
        """Judge what a caller says, before anything else is done for it.

        Raises:
            FailedPreconditionError: a rule of either stage does not compile here; the tenant, and no other, is
                refused rather than served without it.
        """
        found = await self._judge(tenant, tenant.guardrails.input, texts)
        if tenant.guardrails.output.rules:
            await self._patterns(tenant, tenant.guardrails.output)
        if found.texts is not None and not any(text.strip() for text in found.texts):
            # Redaction left nothing to ask.
            return Verdict(None, found.rule_ids, found.rule_ids[0])
        return found

    async def check_output(self, tenant: Tenant, text: str) -> Verdict:
        """Judge a whole answer.

        Raises:
            FailedPreconditionError: a rule does not compile here.
        """
        return await self._judge(tenant, tenant.guardrails.output, [text]) if text else CLEAN

    async def _judge(self, tenant: Tenant, stage: StageRules, texts: Sequence[str]) -> Verdict:
        if not stage.rules:
            return CLEAN
        patterns = await self._patterns(tenant, stage)
        raw = [text.encode() for text in texts]
        steps = (sum(map(len, raw)) + _TEXT_BYTES * len(raw)) * patterns.program_size
        if steps <= _IN_PLACE_STEPS:
            found = find(patterns, raw)
        else:
            found = await self._threads.run(tenant.tenant_uid, lambda: find(patterns, raw))
        if not any(found):
            return CLEAN
        matched = verdict(stage.rules, found)
        if matched.denied_by is not None:
            return matched
        return await self._threads.run(
            tenant.tenant_uid,
            lambda: redact(stage.rules, patterns, raw, found, self._clock.monotonic_seconds),
        )

    async def _patterns(self, tenant: Tenant, stage: StageRules) -> PatternSet:
        """The compiled patterns.

        Raises:
            FailedPreconditionError: one of them does not compile here.
        """
        patterns = self._compiled.use(tenant.tenant_uid, stage.patterns_sha256)
        if patterns is None:
            patterns = await self._compile(tenant.tenant_uid, stage)
        if patterns.broken:
            rule_id = stage.rules[patterns.broken[0]].rule_id
            raise FailedPreconditionError(
                f"the tenant's guardrail {rule_id} cannot be used",
                reason=Reason.GUARDRAIL_UNUSABLE,
                metadata={"rule_id": rule_id},
            )
        return patterns

    async def _compile(self, tenant_uid: str, stage: StageRules) -> PatternSet:
        """Compile once for all callers of a tenant that wait; one that leaves does not stop it."""
        which = tenant_uid, stage.patterns_sha256
        compiling = self._compiling.get(which)
        if compiling is None:
            compiling = asyncio.create_task(self._compiled_in_turn(*which, stage), name="compile guardrails")
            self._compiling[which] = compiling
            compiling.add_done_callback(lambda done: self._forget(which, done))
        return await asyncio.shield(compiling)

    async def _compiled_in_turn(self, tenant_uid: str, key: bytes, stage: StageRules) -> PatternSet:
        def compiled() -> PatternSet:
            # Another tenant with the same patterns may have been first.
            return self._compiled.peek(key) or compile_patterns([rule.pattern for rule in stage.rules])

        patterns = await self._compiler.run(tenant_uid, compiled)  # proven: turns-for-compiling
        self._compiled.put(tenant_uid, key, patterns)
        return patterns

    def _forget(self, which: tuple[str, bytes], done: asyncio.Task[PatternSet]) -> None:
        del self._compiling[which]
        if not done.cancelled():
            # Retrieved for callers that have left.
            done.exception()


def denied(rule_id: str) -> FailedPreconditionError:
    """The refusal: names the rule, and nothing of what it matched."""
    return FailedPreconditionError(
        f"the tenant's guardrail {rule_id} denies this",
        reason=Reason.GUARDRAIL_DENIED,
        metadata={"rule_id": rule_id},
    )
