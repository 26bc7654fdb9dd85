"""Coarse rates: requests a second of one key holder, and of all callers without a key together."""

from __future__ import annotations

from collections.abc import Sequence

from services.edge.keys import KEY_CHECK, SUBJECT
from services.edge.listener_specs import RouteSpec
from services.edge.messages import (
    core,
    hcm,
    kinds,
    local_limit,
    metadata,
    pack,
    ratelimit,
    route,
    seconds,
)
from services.edge.spec import EdgeLimits

_COUNTED_PRINCIPALS = 20_000


def rate(routes: Sequence[RouteSpec], limits: EdgeLimits) -> hcm.HttpFilter:
    """A bucket for each key holder, so that none takes the services' time from the others; one for the keyless.

    A holder is the subject of a verified key, never a header of the request.
    """
    issuers = sorted({item.issuer.name for item in routes if item.issuer})
    on = core.RuntimeFractionalPercent(default_value=kinds.FractionalPercent(numerator=100))
    config = local_limit.LocalRateLimit(
        stat_prefix="rate",
        filter_enabled=on,
        filter_enforced=on,
        rate_limited_as_resource_exhausted=True,
        token_bucket=_bucket(limits.keyless_requests_per_second),
        # Else callers with keys would use up the bucket of those without, health probes among them.
        always_consume_default_token_bucket=False,
        max_dynamic_descriptors=_COUNTED_PRINCIPALS,
        descriptors=[
            ratelimit.LocalRateLimitDescriptor(
                # No value: every subject gets a bucket of its own.
                entries=[ratelimit.RateLimitDescriptorEntry(key=issuer)],
                token_bucket=_bucket(limits.principal_requests_per_second),
            )
            for issuer in issuers
        ],
        rate_limits=[route.RateLimit(actions=[_by_subject(issuer)]) for issuer in issuers],
    )
    return hcm.HttpFilter(name="envoy.filters.http.local_ratelimit", typed_config=pack(config))


def _by_subject(issuer: str) -> route.RateLimitAction:
    subject = metadata.MetadataKey(
        key=KEY_CHECK, path=[metadata.MetadataKeyPathSegment(key=key) for key in (issuer, SUBJECT)]
    )
    return route.RateLimitAction(
        metadata=route.RateLimitActionMetaData(descriptor_key=issuer, metadata_key=subject)
    )


def _bucket(per_second: int) -> kinds.TokenBucket:
    return kinds.TokenBucket(max_tokens=per_second, tokens_per_fill=per_second, fill_interval=seconds(1))
