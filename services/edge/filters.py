"""The filters every request passes before it is sent on, in this order."""

from __future__ import annotations

from services.edge.access_log import sampling
from services.edge.keys import key_check, key_holder_check
from services.edge.listener_specs import KEYLESS_BYTES, ListenerSpec
from services.edge.messages import buffer, hcm, pack, router_filter
from services.edge.rate import rate
from services.edge.spec import EdgeLimits

BUFFER = "envoy.filters.http.buffer"


def chain(listener: ListenerSpec, limits: EdgeLimits) -> list[hcm.HttpFilter]:
    """A listener's filters: check the key, count the request, then wait for the whole of it."""
    return [
        sampling(limits.logged_refusals_per_second),
        key_check(listener.routes),
        key_holder_check(),
        rate(listener.routes, limits),
        _whole_request(),
        hcm.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_filter.Router())),
    ]


def _whole_request() -> hcm.HttpFilter:
    """Hold a request back until it is whole. Each route bounds what may be held, or lets streams through."""
    return hcm.HttpFilter(name=BUFFER, typed_config=pack(buffer.Buffer(max_request_bytes=KEYLESS_BYTES)))
