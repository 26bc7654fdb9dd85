"""Asks an endpoint again and again whether it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from services.common.rpc.interceptors import where

_log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.5
_TIMEOUT_SECONDS = 2.0
# A busy server may be late; one that is gone refuses at once.
_MAX_LATE = 3


class Probe(Protocol):
    """Asks one endpoint."""

    async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
        """Whether it serves the model.

        Raises:
            TimeoutError: no answer in time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A model at an endpoint; any number of pools may use it."""

    target: str
    server_model: str


async def probe_endpoint(
    probe: Probe,
    served: Served,
    report: Callable[[bool], object],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> NoReturn:
    """Probe until cancelled, and report what each probe found.

    One late answer changes nothing: only the third in a row counts as not ready.
    """
    late, complained = 0, False
    while True:
        try:
            ready = await probe.ready(served.target, served.server_model, _TIMEOUT_SECONDS)
        except TimeoutError:
            late += 1
            if late >= _MAX_LATE:
                report(False)
        except Exception as error:  # noqa: BLE001 - a bad target in the config must not end the probes of others
            if not complained:
                _log.error("%s cannot be probed: %s at %s", served.target, type(error).__name__, where(error))
            complained = True
            report(False)
        else:
            late, complained = 0, False
            report(ready)
        await sleep(_INTERVAL_SECONDS)
