"""What every request passes before it is routed: header hygiene first, then the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.cli.local.edge.messages import (
    core,
    early,
    hcm,
    jwt,
    matcher,
    mutation,
    pack,
    route,
    router_filter,
)

OUR_HEADERS = "x-tenantry-"
_CLOCK_SKEW_SECONDS = 5
_CACHED_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs the keys a group of routes asks for."""

    name: str
    issuer: str
    audience: str
    jwks: str


@dataclass(frozen=True, slots=True)
class Guarded:
    """A path prefix and whose keys open it; None for everybody's."""

    prefix: str
    issuer: Issuer | None
    exact: bool = False


def strip_our_headers() -> core.TypedExtensionConfig:
    """Remove every header of ours a client sends, before anything else looks at the request.

    Only this extension point stops every spelling: a route's own removals run after authentication.
    """
    removal = mutation.HeaderMutation(
        remove_on_match=mutation.HeaderMutationRemoveOnMatch(
            key_matcher=matcher.StringMatcher(prefix=OUR_HEADERS, ignore_case=True)
        )
    )
    return core.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=pack(early.HeaderMutation(mutations=[removal])),
    )


def key_check(guarded: Sequence[Guarded]) -> hcm.HttpFilter:
    """Verify the key each path asks for; what no rule names is refused by the routes."""
    issuers = {item.issuer.name: item.issuer for item in guarded if item.issuer}
    providers = {
        name: jwt.JwtProvider(
            issuer=issuer.issuer,
            audiences=[issuer.audience],
            require_expiration=True,
            clock_skew_seconds=_CLOCK_SKEW_SECONDS,
            local_jwks=core.DataSource(inline_string=issuer.jwks),
            # The service behind verifies again: what it gets has to be the key itself.
            forward=True,
            jwt_cache_config=jwt.JwtCacheConfig(jwt_cache_size=_CACHED_TOKENS),
        )
        for name, issuer in issuers.items()
    }
    rules = [
        jwt.RequirementRule(
            match=route.RouteMatch(path=item.prefix) if item.exact else route.RouteMatch(prefix=item.prefix),
            requires=jwt.JwtRequirement(provider_name=item.issuer.name) if item.issuer else None,
        )
        for item in guarded
    ]
    return hcm.HttpFilter(
        name="envoy.filters.http.jwt_authn",
        typed_config=pack(jwt.JwtAuthentication(providers=providers, rules=rules)),
    )


def routing() -> hcm.HttpFilter:
    """The last filter: send the request on."""
    return hcm.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_filter.Router()))


def seconds(value: float) -> timedelta:
    """Envoy's durations."""
    return timedelta(seconds=value)
