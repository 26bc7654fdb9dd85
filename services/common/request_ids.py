"""The id that finds one request in answers, errors, logs and audit entries.

The edge sets it as an `x-request-id` that no caller can choose. A service makes one for a call without it. It names a
request and authorises nothing: no decision may depend on its being secret or unique.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar

REQUEST_ID_KEY = "x-request-id"
"""The metadata key of the id, in requests and in answers."""
# Envoy puts its trace sampling into the version digit, so that digit may be any.
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_current: ContextVar[str] = ContextVar("request_id")


def new_request_id() -> str:
    """A random UUID."""
    return str(uuid.uuid4())


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The id that a call brings, if it brings exactly one and that is a UUID; else a new one."""
    brought = [value for key, value in metadata if key == REQUEST_ID_KEY]
    if len(brought) == 1 and isinstance(brought[0], str) and _UUID.fullmatch(brought[0]):
        return brought[0]
    return new_request_id()


def set_request_id(request_id: str) -> None:
    """Make an id the current call's, for everything that runs in its context."""
    _current.set(request_id)


def current_request_id() -> str:
    """The current call's id; outside of a call, a new one."""
    return _current.get(None) or new_request_id()
