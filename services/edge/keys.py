"""Whose request it is: the key verified, then its holder demanded on the route that was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from services.edge.listener_specs import Issuer, Passage
from services.edge.messages import (
    core,
    hcm,
    http_rbac,
    jwt,
    matcher,
    pack,
    rbac,
    route,
)

KEY_CHECK = "envoy.filters.http.jwt_authn"
KEY_HOLDER = "envoy.filters.http.rbac"
SUBJECT = "sub"
"""The claim that names the key's holder: a tenant_uid, an operator's name."""

_CLOCK_SKEW_SECONDS = 5
_CACHED_TOKENS = 10_000
# RFC 6750's b64token, once: Envoy joins several `authorization` headers with commas.
_ONE_BEARER = r"Bearer [A-Za-z0-9._~+/-]+=*"
_SOMEBODY = r".+"


def key_check(passages: Sequence[Passage]) -> hcm.HttpFilter:
    """Verify the key each path asks for; what no rule names is refused by the routes."""
    issuers = {item.issuer.name: item.issuer for item in passages if item.issuer}
    providers = {
        name: jwt.JwtProvider(
            issuer=issuer.issuer,
            audiences=[issuer.audience],
            require_expiration=True,
            clock_skew_seconds=_CLOCK_SKEW_SECONDS,
            local_jwks=core.DataSource(inline_string=issuer.jwks),
            # Named, because the default also takes `?access_token=`, and URLs end up in logs.
            from_headers=[jwt.JwtHeader(name="authorization", value_prefix="Bearer ")],
            # The service behind verifies again: what it gets has to be the key itself.
            forward=True,
            payload_in_metadata=name,
            jwt_cache_config=jwt.JwtCacheConfig(jwt_cache_size=_CACHED_TOKENS),
        )
        for name, issuer in issuers.items()
    }
    rules = [
        jwt.RequirementRule(
            match=match(item),
            requires=jwt.JwtRequirement(provider_name=item.issuer.name) if item.issuer else None,
        )
        for item in passages
    ]
    return hcm.HttpFilter(
        name=KEY_CHECK, typed_config=pack(jwt.JwtAuthentication(providers=providers, rules=rules))
    )


def match(passage: Passage) -> route.RouteMatch:
    """The passage's path, the same for the key check and for the routes."""
    if passage.exact:
        return route.RouteMatch(path=passage.path)
    return route.RouteMatch(prefix=passage.path)


def key_holder_check() -> hcm.HttpFilter:
    """Demands nothing by itself: each route says whose key it wants."""
    return hcm.HttpFilter(name=KEY_HOLDER, typed_config=pack(http_rbac.Rbac()))


def demand_key_holder(issuer: Issuer) -> http_rbac.RbacPerRoute:
    """Refuse all but a request with one key, verified as this issuer's, that says whose it is.

    Asked on the chosen route, after the key check chose its rule by itself: no path on which the two might
    disagree is a way in. The key check takes a token without a subject.
    """
    one_token = rbac.Permission(
        header=route.HeaderMatcher(
            name="authorization",
            string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=_ONE_BEARER)),
        )
    )
    somebody = rbac.Principal(
        sourced_metadata=rbac.SourcedMetadata(
            metadata_matcher=matcher.MetadataMatcher(
                filter=KEY_CHECK,
                path=[matcher.MetadataMatcherPathSegment(key=key) for key in (issuer.name, SUBJECT)],
                value=matcher.ValueMatcher(
                    string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=_SOMEBODY))
                ),
            )
        )
    )
    policy = rbac.Policy(permissions=[one_token], principals=[somebody])
    rules = rbac.Rbac(action=rbac.RbacAction.ALLOW, policies={issuer.name: policy})
    return http_rbac.RbacPerRoute(rbac=http_rbac.Rbac(rules=rules))
