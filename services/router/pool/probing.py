"""Keeps asking every endpoint whether it serves, and tells its pools."""

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
    tell: Callable[[bool], object],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> NoReturn:
    """Probe until cancelled, and tell what each probe found."""
    late, complained = 0, False
    while True:
        try:
            ready = await probe.ready(served.target, served.server_model, _TIMEOUT_SECONDS)
        except TimeoutError:
            late += 1
            if late >= _MAX_LATE:
                tell(False)
        except Exception as error:  # noqa: BLE001 - a target out of config must not end the other targets' probes
            if not complained:
                _log.error("%s cannot be probed: %s at %s", served.target, type(error).__name__, where(error))
            complained = True
            tell(False)
        else:
            late, complained = 0, False
            tell(ready)
        await sleep(_INTERVAL_SECONDS)
