"""Requests made to look like somebody else's, or like none that needs a key: nothing of them reaches a service."""

from __future__ import annotations

import base64
import hmac
import json
import time

import grpc
import jwt
import pytest

from services.common.tokens import CONFIG_ISSUER, Audience, TokenIssuer, new_signing_key_pem
from services.edge.hygiene import STRIPPED_HEADERS
from services.edge.keys import KEY_CHECK, KEY_HOLDER
from services.edge.listener_specs import HEALTH, INFERENCE
from services.edge.messages import hcm
from tests.integration.edge_process import (
    ASK,
    EDIT,
    READ,
    Refusal,
    bearer,
    both,
    changed_filter,
    changed_manager,
    running_edge,
    without_filter,
)

pytestmark = pytest.mark.integration

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED.value[0]
SPOOFED = "spoofed-value"
CERTIFICATE = "x-forwarded-client-cert"
NAMES = [
    *(prefix + end for prefix in STRIPPED_HEADERS for end in ("tenant", "tenant-uid", "anything", "")),
    "x-tenant-id",
    "x-envoy-retry-on",
    "x-envoy-upstream-rq-timeout-ms",
    CERTIFICATE,
]
# With a caller's key: where each path must not lead, and where it may.
CROOKED_PATHS = {
    f"{INFERENCE}../tenantry.config.v1.ConfigAdminService/GetTenant": None,
    f"{INFERENCE}%2e%2e/grpc.health.v1.Health/Watch": None,
    f"{INFERENCE}a%2F..%2FGenerate": None,
    f"{INFERENCE}a%5C..%5CGenerate": None,
    f"{INFERENCE}/Generate": ASK,
    f"/{ASK}": ASK,
    f"{INFERENCE}./Generate": ASK,
    f"{HEALTH}/../..{ASK}": ASK,
}
# Without a key: exempt by the look of them.
KEYLESS_PATHS = [
    ASK,
    f"{HEALTH}/../..{ASK}",
    f"{HEALTH}/..//..{ASK}",
    f"{HEALTH}/%2e%2e/%2e%2e{ASK}",
    f"{HEALTH}%2F..%2F..{ASK}",
    f"{HEALTH};{ASK}",
    f"{HEALTH};/../..{ASK}",
    f"{HEALTH}?/../..{ASK}",
    f"{HEALTH}#/../..{ASK}",
    f"/{ASK}",
    f"{INFERENCE}Generate;",
    f"{INFERENCE}Generate%00",
    ASK.upper(),
    f"http://localhost{ASK}",
]


@pytest.fixture
async def edge():
    async with running_edge() as running:
        yield running


def spellings(name):
    yield [(name, SPOOFED)]
    yield [(name.upper(), SPOOFED)]
    yield [(name.title(), SPOOFED), (name, SPOOFED)]


async def arrived(edge, headers):
    """The metadata that reached a service."""
    seen = await edge.raw(ASK, [*edge.caller(), ("x-other", "kept"), *headers])
    assert isinstance(seen, dict), (headers, seen)
    assert ["x-other", "kept"] in seen["metadata"]
    return seen["metadata"]


async def test_a_header_that_says_who_asks_never_arrives(edge):
    for name in NAMES:
        for headers in spellings(name):
            assert SPOOFED not in json.dumps(await arrived(edge, headers)), headers
    seen = await edge.tenant(ASK, [*edge.caller(), ("x-tenantry-tenant", SPOOFED), ("x-other", "kept")])
    assert "x-other" in dict(seen["metadata"])
    assert SPOOFED not in json.dumps(seen)


async def test_that_test_notices_headers_that_are_not_stripped(edge):
    def keep(manager):
        manager.early_header_mutation_extensions = []

    async with edge.like_this(changed_manager(keep)) as mutant:
        for name in ("X-Tenantry-Tenant", "x-tenant-id", "x-envoy-anything"):
            assert [name.lower(), SPOOFED] in await arrived(mutant, [(name, SPOOFED)])


async def test_that_test_notices_a_forwarded_certificate(edge):
    def forward(manager):
        manager.forward_client_cert_details = (
            hcm.HttpConnectionManagerForwardClientCertDetails.ALWAYS_FORWARD_ONLY
        )

    async with edge.like_this(changed_manager(forward)) as mutant:
        assert [CERTIFICATE, SPOOFED] in await arrived(mutant, [(CERTIFICATE, SPOOFED)])


async def test_an_underscore_does_not_get_round_the_rule(edge):
    for name in ("x_tenantry_tenant", "x-tenantry_tenant", "X_Tenant_Id", "x_other"):
        assert await edge.raw(ASK, [*edge.caller(), (name, SPOOFED)]) == Refusal(400, None), name
    assert isinstance(await edge.tenant(ASK, [*edge.caller(), ("x-other", "kept")]), dict)
    answer = await edge.tenant(ASK, [*edge.caller(), ("x_other", "refused")])
    assert answer is grpc.StatusCode.INTERNAL


async def test_a_crooked_path_leads_nowhere_or_where_it_says(edge):
    for path, target in CROOKED_PATHS.items():
        seen = await edge.raw(path, edge.caller())
        if target is None:
            assert isinstance(seen, Refusal), path
        else:
            assert seen["path"] == target, path
    assert set(edge.begun()) == {ASK}


@pytest.mark.parametrize(
    ("path", "setting", "value"),
    [
        (f"{INFERENCE}../tenantry.config.v1.ConfigAdminService/GetTenant", "normalize_path", False),
        (f"{INFERENCE}/Generate", "merge_slashes", False),
        (
            f"{INFERENCE}a%2F..%2FGenerate",
            "path_with_escaped_slashes_action",
            hcm.HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED,
        ),
    ],
)
async def test_that_test_notices_paths_taken_as_they_come(edge, path, setting, value):
    async with edge.like_this(changed_manager(lambda manager: setattr(manager, setting, value))) as mutant:
        assert (await mutant.raw(path, mutant.caller()))["path"] == path


async def test_no_path_is_a_way_round_the_key(edge):
    for path in KEYLESS_PATHS:
        for method in ("POST", "GET", "OPTIONS", "CONNECT", "TRACE"):
            seen = await edge.raw(path, [], method)
            assert isinstance(seen, Refusal) or seen["path"].partition("?")[0] == HEALTH, (method, path, seen)
    assert {path.partition("?")[0] for path in edge.begun()} <= {HEALTH}


async def test_no_upgrade_and_no_preflight_is_a_way_round_the_key(edge):
    preflight = [("origin", "https://a.test"), ("access-control-request-method", "POST")]
    assert isinstance(await edge.raw(ASK, preflight, "OPTIONS"), Refusal)
    for protocol in ("websocket", "h2c"):
        # As the second of two, so that it adds to the `close` every raw request brings.
        upgrade = [
            ("connection", "upgrade, http2-settings"),
            ("upgrade", protocol),
            ("http2-settings", "AAAA"),
        ]
        seen = await edge.raw(ASK, [*upgrade, ("content-type", "text/plain")], "GET")
        assert isinstance(seen, Refusal), protocol
    assert edge.begun() == []


def signed(edge, **claims):
    """A token as the config service signs them, some of its claims changed; None leaves one out."""
    now = int(time.time())
    payload = {"iss": CONFIG_ISSUER, "aud": "tenantry-inference", "sub": "t1", "jti": "k1", "iat": now}
    payload |= {"exp": now + 60} | claims
    left = {name: value for name, value in payload.items() if value is not None}
    issuer = edge.config
    return jwt.encode(left, issuer._private_key, "ES256", headers={"kid": issuer.signing_key_id})


def unsigned(token, header):
    return ".".join([b64(json.dumps(header).encode()), token.split(".")[1], ""])


def with_secret(token, header, secret):
    signed_part = ".".join([b64(json.dumps(header).encode()), token.split(".")[1]])
    return f"{signed_part}.{b64(hmac.digest(secret, signed_part.encode(), 'sha256'))}"


def b64(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def bad_tokens(edge):
    good, now = signed(edge), int(time.time())
    kid = edge.config.signing_key_id
    # Signed with what everybody knows: the public key's file taken as a secret.
    confused = with_secret(good, {"alg": "HS256", "kid": kid}, edge.config.jwks().encode())
    stranger = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    return {
        "alg none": unsigned(good, {"alg": "none", "kid": kid}),
        "no signature": unsigned(good, {"alg": "ES256", "kid": kid}),
        "public key as a secret": confused,
        "another's signature": edge.token(stranger, Audience.INFERENCE),
        "another audience": signed(edge, aud="tenantry-operator"),
        "no audience": signed(edge, aud=None),
        "another issuer": signed(edge, iss="tenantry-audit"),
        "no issuer": signed(edge, iss=None),
        "expired": signed(edge, exp=now - 30),
        "no expiry": signed(edge, exp=None),
        "not yet": signed(edge, nbf=now + 600),
        "nobody's": signed(edge, sub=None),
        "an empty subject's": signed(edge, sub=""),
        "of two subjects": signed(edge, sub=["t1", "t2"]),
    }


async def test_a_token_that_is_not_whole_opens_nothing(edge):
    assert isinstance(await edge.raw(ASK, [bearer(signed(edge))]), dict)
    begun = len(edge.begun())
    for what, token in bad_tokens(edge).items():
        assert await edge.raw(ASK, [bearer(token)]) == Refusal(200, UNAUTHENTICATED), what
    assert len(edge.begun()) == begun


async def test_a_key_is_shown_once_and_in_its_header(edge):
    good, other = signed(edge), signed(edge, sub="t2")
    for headers in (
        [("authorization", good)],
        [("authorization", f"Basic {good}")],
        [("authorization", f"Basic Bearer {good}")],
        [bearer(good), bearer(good)],
        [bearer(good), bearer(other)],
        [bearer(good), ("Authorization", "Bearer ")],
        [("authorization", "Basic eA=="), bearer(good)],
        [("authorization", f"Bearer {good}, Bearer {other}")],
        [("authorization", f"Bearer {good} {other}")],
        [("proxy-authorization", f"Bearer {good}")],
        [("cookie", f"access_token={good}")],
        [("x-authorization", f"Bearer {good}")],
    ):
        assert await edge.raw(ASK, headers) == Refusal(200, UNAUTHENTICATED), headers
    assert await edge.raw(f"{ASK}?access_token={good}", []) == Refusal(200, UNAUTHENTICATED)
    assert edge.begun() == []


async def test_the_scheme_is_read_in_any_case(edge):
    good = signed(edge)
    for scheme in ("bearer", "BEARER", "bEaReR", "Bearer"):
        seen = await edge.raw(ASK, [("authorization", f"{scheme} {good}")])
        assert ["authorization", f"{scheme} {good}"] in seen["metadata"]
    reviewer = edge.token(edge.audit, Audience.REVIEW)
    operator = edge.token(edge.config, Audience.OPERATOR)
    assert isinstance(await edge.operations(EDIT, [("authorization", f"bearer {operator}")]), dict)
    assert isinstance(await edge.operations(READ, [("authorization", f"BEARER {reviewer}")]), dict)


MALFORMED = "the authorization header must hold the scheme Bearer, one space and one key, and be sent once"


async def test_what_is_wrong_with_the_header_is_said(edge):
    good = signed(edge)
    for headers, reason in (
        ([], "no key was sent: send the header `authorization: Bearer KEY`"),
        ([("authorization", "")], MALFORMED),
        ([("authorization", "Bearer")], MALFORMED),
        ([("authorization", good)], MALFORMED),
        ([("authorization", f"Basic {good}")], MALFORMED),
        ([("authorization", f"Bearer  {good}")], MALFORMED),
        ([("authorization", f"Bearer\t{good}")], MALFORMED),
        ([("authorization", f"Bearer \t{good}")], MALFORMED),
        ([("authorization", f"Bearer {good} x")], MALFORMED),
        ([("authorization", f"Bearer {good},")], MALFORMED),
        ([("authorization", f"Bearer,{good}")], MALFORMED),
        ([("authorization", f"Bearer Bearer {good}")], MALFORMED),
        ([("authorization", f'Bearer "{good}"')], MALFORMED),
        ([bearer(good), bearer(good)], MALFORMED),
        ([bearer(signed(edge, sub=None))], "the key does not open this method"),
        ([bearer(signed(edge, exp=int(time.time()) - 60))], "Jwt is expired"),
    ):
        refusal = await edge.raw(ASK, headers)
        assert refusal == Refusal(200, UNAUTHENTICATED), headers
        assert refusal.text == reason, headers
    assert edge.begun() == []


async def test_spaces_around_a_header_and_an_empty_one_belong_to_no_key(edge):
    """HTTP/1.1 takes such spaces away (RFC 9110, section 5.5), and Envoy a header without a value."""
    good = signed(edge)
    whole = [
        [("authorization", text)] for text in (f" Bearer {good}", f"Bearer {good} ", f"\tBearer {good}\t")
    ]
    for headers in (*whole, [bearer(good), ("authorization", "")]):
        seen = await edge.raw(ASK, headers)
        assert [item for item in seen["metadata"] if item[0] == "authorization"] == [list(bearer(good))]


async def test_those_tests_notice_what_is_taken_away(edge):
    """Each of the two checks of a key, and each of the first's rules."""
    good = signed(edge)

    def every_provider(**fields):
        def change(config):
            for provider in config.providers.values():
                for name, value in fields.items():
                    setattr(provider, name, value)

        return changed_filter(KEY_CHECK, change)

    unheld = without_filter(KEY_HOLDER)
    for change, path, headers in (
        (unheld, ASK, [bearer(signed(edge, sub=None))]),
        (unheld, ASK, [("authorization", f"Basic {good}")]),
        (both(every_provider(from_headers=[]), unheld), f"{ASK}?access_token={good}", []),
        (every_provider(audiences=[]), ASK, [bearer(signed(edge, aud="tenantry-operator"))]),
        (every_provider(require_expiration=False), ASK, [bearer(signed(edge, exp=None))]),
    ):
        async with edge.like_this(change) as mutant:
            assert isinstance(await mutant.raw(path, headers), dict), (path, headers)


async def test_a_route_asks_for_its_key_even_where_the_key_check_has_no_rule(edge):
    """The mutant has lost the key check's rules: the check of the route still stands."""

    def no_rules(config):
        config.rules = []

    async with edge.like_this(changed_filter(KEY_CHECK, no_rules)) as mutant:
        assert await mutant.tenant(ASK) is grpc.StatusCode.UNAUTHENTICATED
        assert await mutant.tenant(ASK, mutant.caller()) is grpc.StatusCode.UNAUTHENTICATED
        assert await mutant.operations(EDIT, mutant.operator()) is grpc.StatusCode.UNAUTHENTICATED
    assert edge.begun() == []
