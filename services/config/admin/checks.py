"""Checks configs off the event loop and within bounds.

Tenants' text decides how long a check takes, since patterns are compiled and prompts tokenised. On the event loop, one
check would delay the heartbeats of every router. So a few threads check one config of each principal at a time; a
bounded number waits, and the others are refused and may try again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tenantry.config.v1 import tenant_pb2

from services.common.errors import FieldViolation, Reason, ResourceExhaustedError
from services.config.rules.catalog_facts import surroundings
from services.config.rules.prompt_lengths import PromptLengths
from services.config.rules.validation import oversize, unknown_in, validate_config
from services.config.state.config_state import ConfigState
from services.config.state.operators import Operator

THREADS = 2
MAX_WAITING = 32
"""The most checks of one principal, the running one included."""
WAIT_SECONDS = 10.0
_RETRY_SECONDS = 1.0
T = TypeVar("T")


@dataclass(slots=True)
class _Turns:
    """The turns of one principal."""

    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    waiting: int = 0


class ConfigChecks:
    """Validates configs, one at a time for each principal."""

    def __init__(self, prompts: PromptLengths) -> None:
        self._prompts = prompts
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="check-config")
        self._turns: dict[str, _Turns] = {}

    async def violations(
        self,
        operator: Operator,
        state: ConfigState,
        tenant: tuple[str, str],
        config: tenant_pb2.TenantConfig,
        path: str = "tenant.config",
        *,
        sent: tenant_pb2.TenantConfig | None = None,
    ) -> list[FieldViolation]:
        """Every violation of a config.

        Args:
            operator: the caller.
            state: the resources that the config may refer to.
            tenant: the tenant's name and uid; the uid is empty for a tenant that does not exist yet.
            config: the config as it would be in force.
            path: the config's name in violations.
            sent: the config as it was sent, where only a part is taken: unknown fields in the rest are refused too.

        Raises:
            ResourceExhaustedError: the operator has too many configs checked at once.
        """
        found = oversize(config, path) or oversize(config if sent is None else sent, path)
        if found:
            return found

        def check() -> list[FieldViolation]:
            around = surroundings(state, *tenant)
            counted = replace(around, prompt_tokens=self._prompts.count(config, state))
            found = validate_config(config, counted, path)
            if sent is not None:
                named = {violation.field for violation in found}
                found += [wrong for wrong in unknown_in(sent, path) if wrong.field not in named]
            return found

        return await self.run(operator, check)

    async def run(self, operator: Operator, check: Callable[[], T]) -> T:
        """Run a blocking check in a thread, when it is the operator's turn.

        Raises:
            ResourceExhaustedError: too many checks of this operator wait already.
        """
        principal = operator.role_tenant_uid or operator.key_id
        turns = self._turns.setdefault(principal, _Turns())
        if turns.waiting >= MAX_WAITING:
            raise _too_many()
        turns.waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turns.free.acquire()
        except BaseException as error:
            self._done(principal, turns)
            if isinstance(error, TimeoutError):
                raise _too_many() from None
            raise

        def ended(_: asyncio.Future[T]) -> None:
            turns.free.release()
            self._done(principal, turns)

        # Cancelling the caller does not stop the thread: its turn ends when the thread is done.
        work = asyncio.get_running_loop().run_in_executor(self._threads, check)
        work.add_done_callback(ended)
        return await asyncio.shield(work)  # proven: check-outlives-caller

    def _done(self, principal: str, turns: _Turns) -> None:
        turns.waiting -= 1
        if not turns.waiting:
            self._turns.pop(principal, None)


def _too_many() -> ResourceExhaustedError:
    return ResourceExhaustedError(
        "too many configs of this operator are being checked",
        reason=Reason.CONCURRENCY_LIMITED,
        retry_after_seconds=_RETRY_SECONDS,
    )
