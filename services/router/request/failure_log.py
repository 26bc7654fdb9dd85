"""Writes one line to the process log for each request that failed, under the id its caller was given.

Lines hold ids, reasons and names from the config, never a caller's or a model's text. A tenant that is refused often
must not fill the log: each tenant and reason gets ten lines at once and then one a second, which says how many were
left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NoReturn

from services.common.clock import Clock
from services.common.errors import Code, Error
from services.router.backends.backend import BackendError
from services.router.limits.rate_limiter import RateLimiter

_log = logging.getLogger(__name__)

_LINES_PER_SECOND = 1.0
_BURST_LINES = 10
_FLUSH_SECONDS = 10.0
_MAX_KNOWN = 10_000
# Failures that callers cause themselves; the others concern the operators of the mesh, and are warnings.
_CAUSED_BY_CALLERS = {
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.UNAUTHENTICATED,
    Code.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED,
}


@dataclass(slots=True)
class _Written:
    rate: RateLimiter = field(default_factory=RateLimiter)
    left_out: int = 0
    level: int = logging.INFO
    """Of the failures left out."""


class FailureLog:
    """The lines of one router process; remembers the allowances of the tenants and reasons most recently seen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._written: OrderedDict[tuple[str, str], _Written] = OrderedDict()

    def failed(self, request_id: str, error: Error, *, tenant_uid: str = "", key_id: str = "") -> None:
        """Write a line, unless the tenant's allowance for this reason is used up.

        Args:
            request_id: as the caller was given it.
            error: as the caller was given it; a model server's failure as its cause is named too.
            tenant_uid: empty for a caller that is not known: these share one allowance.
            key_id: the caller's key.
        """
        level = logging.INFO if error.code in _CAUSED_BY_CALLERS else logging.WARNING
        left_out = self._admit(tenant_uid, error.reason, level)
        if left_out is None:
            return
        facts = [f"tenant={tenant_uid}", f"key={key_id}"] if tenant_uid else []
        facts += [f"{name}={value}" for name, value in sorted(error.metadata.items())]
        if isinstance(error.__cause__, BackendError):
            facts.append(f"cause={error.__cause__}")
            if error.__cause__.server_text:
                facts.append(f"server={error.__cause__.server_text!r}")
        if left_out:
            facts.append(f"({left_out} more of this reason were left out)")
        _log.log(level, "request %s failed: %s", request_id, " ".join([error.reason, *facts]))

    def flush(self) -> None:
        """Write how many failures were left out of each tenant and reason, where no later line says it yet."""
        now = self._clock.monotonic_seconds()
        for (tenant_uid, reason), written in self._written.items():
            if written.left_out and not written.rate.wait_seconds(_LINES_PER_SECOND, _BURST_LINES, 1, now):
                _write_left_out(tenant_uid, reason, written)

    async def run(self) -> NoReturn:
        """Flush every few seconds, for as long as the process lives: failures that stop have no later line."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self.flush()

    def _admit(self, tenant_uid: str, reason: str, level: int) -> int | None:
        """How many failures were left out since the last line; None to leave out this one too."""
        written = self._written.setdefault((tenant_uid, reason), _Written())
        self._written.move_to_end((tenant_uid, reason))
        if len(self._written) > _MAX_KNOWN:
            key, forgotten = self._written.popitem(last=False)
            if forgotten.left_out:
                _write_left_out(*key, forgotten)
        now = self._clock.monotonic_seconds()
        if written.rate.wait_seconds(_LINES_PER_SECOND, _BURST_LINES, 1, now):
            written.left_out += 1
            written.level = level
            return None
        left_out, written.left_out = written.left_out, 0
        return left_out


def _write_left_out(tenant_uid: str, reason: str, written: _Written) -> None:
    facts = [reason, f"tenant={tenant_uid}"] if tenant_uid else [reason]
    _log.log(written.level, "%d more requests failed: %s", written.left_out, " ".join(facts))
    written.left_out = 0
