"""Verifies a request's key, then demands a holder of the right kind on the route that was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from services.edge.listener_specs import Issuer, RouteSpec
from services.edge.messages import (
    data,
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
KEY_ID = "jti"

_CLOCK_SKEW_SECONDS = 5
_CACHED_TOKENS = 10_000
ONE_BEARER = r"(?i:bearer) [A-Za-z0-9._~+/-]+=*"
"""One scheme in any case (RFC 9110, section 11.1), one space, one b64token (RFC 6750, section 2.1).

Envoy joins several `authorization` headers with commas, which no token holds.
"""
_ANY_HOLDER = r".+"


def key_check(routes: Sequence[RouteSpec]) -> hcm.HttpFilter:
    """Verify the key each path asks for; a path without a rule is refused by the routes."""
    issuers = {item.issuer.name: item.issuer for item in routes if item.issuer}
    providers = {
        name: jwt.JwtProvider(
            issuer=issuer.issuer,
            audiences=[issuer.audience],
            require_expiration=True,
            clock_skew_seconds=_CLOCK_SKEW_SECONDS,
            local_jwks=data(issuer.jwks),
            # Named, because the default also takes `?access_token=`, and URLs end up in logs. A prefix is compared
            # with its case, so only the space is one; the route's own check demands the scheme.
            from_headers=[jwt.JwtHeader(name="authorization", value_prefix=" ")],
            # The service behind verifies the key again.
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
        for item in routes
    ]
    return hcm.HttpFilter(
        name=KEY_CHECK, typed_config=pack(jwt.JwtAuthentication(providers=providers, rules=rules))
    )


def match(spec: RouteSpec) -> route.RouteMatch:
    """A route's path, the same for the key check and for the routes."""
    if spec.exact:
        return route.RouteMatch(path=spec.path)
    return route.RouteMatch(prefix=spec.path)


def key_holder_check() -> hcm.HttpFilter:
    """Demands nothing by itself: each route sets whose key it takes."""
    return hcm.HttpFilter(name=KEY_HOLDER, typed_config=pack(http_rbac.Rbac()))


def demand_key_holder(issuer: Issuer) -> http_rbac.RbacPerRoute:
    """Refuse all but a request with one key, verified as this issuer's, that names its holder.

    Checked on the chosen route, since the key check chooses its rule by itself: a path on which the two disagree is
    no way in. The key check alone takes a token without a subject.
    """
    one_token = rbac.Permission(
        header=route.HeaderMatcher(
            name="authorization",
            string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=ONE_BEARER)),
        )
    )
    a_holder = rbac.Principal(
        sourced_metadata=rbac.SourcedMetadata(
            metadata_matcher=matcher.MetadataMatcher(
                filter=KEY_CHECK,
                path=[matcher.MetadataMatcherPathSegment(key=key) for key in (issuer.name, SUBJECT)],
                value=matcher.ValueMatcher(
                    string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=_ANY_HOLDER))
                ),
            )
        )
    )
    policy = rbac.Policy(permissions=[one_token], principals=[a_holder])
    rules = rbac.Rbac(action=rbac.RbacAction.ALLOW, policies={issuer.name: policy})
    return http_rbac.RbacPerRoute(rbac=http_rbac.Rbac(rules=rules))
