"""What every request passes before it is sent on, in this order."""

from __future__ import annotations

from services.edge.keys import key_check, key_holder_check
from services.edge.listener_specs import KEYLESS_BYTES, Door
from services.edge.messages import buffer, hcm, pack, router_filter
from services.edge.rate import rate
from services.edge.spec import EdgeLimits

BUFFER = "envoy.filters.http.buffer"


def chain(door: Door, limits: EdgeLimits) -> list[hcm.HttpFilter]:
    """A door's filters: first who asks, then how often, then the wait for the whole request."""
    return [
        key_check(door.passages),
        key_holder_check(),
        rate(door.passages, limits),
        _whole_request(),
        hcm.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_filter.Router())),
    ]


def _whole_request() -> hcm.HttpFilter:
    """Hold a request back until it is whole. Each route says how much may be held, or that it is for streams."""
    return hcm.HttpFilter(name=BUFFER, typed_config=pack(buffer.Buffer(max_request_bytes=KEYLESS_BYTES)))
