from __future__ import annotations

import base64
import json

import jwt
import pytest

from services.common.errors import UnauthenticatedError
from services.common.tokens import (
    AUDIT_ISSUER,
    CONFIG_ISSUER,
    Audience,
    Claims,
    TokenIssuer,
    TokenVerifier,
    new_signing_key_pem,
)
from tests.fakes.manual_clock import ManualClock


def claims(expire_seconds: int, **changes) -> Claims:
    fields = {"key_id": "k1", "subject": "t-1", "scopes": (), "role": "", "role_tenant_uid": ""}
    return Claims(expire_seconds=expire_seconds, **{**fields, **changes})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)


@pytest.fixture
def verifier(tmp_path, issuer, clock) -> TokenVerifier:
    path = tmp_path / "jwks.json"
    path.write_text(issuer.jwks())
    return TokenVerifier(path, CONFIG_ISSUER, Audience.INFERENCE, clock)


def test_round_trip(issuer, verifier, clock):
    wanted = claims(int(clock.wall_seconds()) + 60, scopes=("inference",))
    token = issuer.issue(Audience.INFERENCE, wanted, int(clock.wall_seconds()))
    assert verifier.verify(f"Bearer {token}") == wanted
    assert verifier.verify(f"Bearer {token}") == wanted


def test_expiry_is_checked_on_cached_tokens_too(issuer, verifier, clock):
    token = issuer.issue(
        Audience.INFERENCE, claims(int(clock.wall_seconds()) + 60), int(clock.wall_seconds())
    )
    verifier.verify(f"Bearer {token}")
    clock.advance(61)
    with pytest.raises(UnauthenticatedError):
        verifier.verify(f"Bearer {token}")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a.b.c", "Bearer " + "a" * 5000]
)
def test_malformed(verifier, header):
    with pytest.raises(UnauthenticatedError):
        verifier.verify(header)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEARER"])
def test_the_scheme_is_read_in_any_case(issuer, verifier, clock, scheme):
    far = claims(int(clock.wall_seconds()) + 60)
    assert verifier.verify(f"{scheme} {issuer.issue(Audience.INFERENCE, far, 0)}") == far


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "Bearer{}",
        "Bearer  {}",
        "Bearer\t{}",
        "Bearer \t{}",
        " Bearer {}",
        "Bearer {} ",
        "Bearer {}\t",
        "Bearer {}\n",
        "Bearer {}, Bearer {}",
        "Bearer {} {}",
        "Basic {}",
        "Basic Bearer {}",
        "Bearer\u00a0{}",
        "Bearer \u00e9{}",
        'Bearer "{}"',
    ],
)
def test_a_header_of_another_form_is_refused_with_its_reason(issuer, verifier, clock, form):
    token = issuer.issue(Audience.INFERENCE, claims(int(clock.wall_seconds()) + 60), 0)
    with pytest.raises(UnauthenticatedError, match="scheme Bearer, one space and one key"):
        verifier.verify(form.replace("{}", token))


def test_another_audience_or_issuer_is_refused(issuer, verifier, clock, tmp_path):
    far = claims(int(clock.wall_seconds()) + 60)
    operator = issuer.issue(Audience.OPERATOR, far, 0)
    with pytest.raises(UnauthenticatedError):
        verifier.verify(f"Bearer {operator}")
    other = TokenIssuer.from_pem(new_signing_key_pem(), AUDIT_ISSUER)
    path = tmp_path / "both.json"
    keys = json.loads(issuer.jwks())["keys"] + json.loads(other.jwks())["keys"]
    path.write_text(json.dumps({"keys": keys}))
    both = TokenVerifier(path, CONFIG_ISSUER, Audience.INFERENCE, clock)
    with pytest.raises(UnauthenticatedError):
        both.verify("Bearer " + other.issue(Audience.INFERENCE, far, 0))


def test_unsigned_and_foreign_signatures_are_refused(issuer, verifier, clock):
    far = claims(int(clock.wall_seconds()) + 60)
    good = issuer.issue(Audience.INFERENCE, far, 0)
    body = jwt.decode(good, options={"verify_signature": False})
    unsigned = jwt.encode(body, key="", algorithm="none", headers={"kid": issuer.signing_key_id})
    foreign = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER).issue(Audience.INFERENCE, far, 0)
    header = base64.urlsafe_b64encode(
        json.dumps({"alg": "ES256", "typ": "JWT", "kid": issuer.signing_key_id}).encode()
    ).rstrip(b"=")
    relabelled = b".".join([header, *foreign.encode().split(b".")[1:]]).decode()
    for token in (unsigned, foreign, relabelled):
        with pytest.raises(UnauthenticatedError):
            verifier.verify(f"Bearer {token}")


def test_a_rotated_key_is_read_again_but_not_more_than_once_a_second(issuer, verifier, clock, tmp_path):
    far = claims(int(clock.wall_seconds()) + 60)
    verifier.verify("Bearer " + issuer.issue(Audience.INFERENCE, far, 0))
    rotated = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    (tmp_path / "jwks.json").write_text(rotated.jwks())
    token = "Bearer " + rotated.issue(Audience.INFERENCE, far, 0)
    with pytest.raises(UnauthenticatedError):
        verifier.verify(token)
    clock.advance(1.0)
    assert verifier.verify(token).key_id == "k1"


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", "{}", '{"keys": 1}', '{"keys": [{"kid": "x"}]}', '{"keys": [1]}', None]
)
def test_a_file_that_cannot_be_read_takes_no_key_away(issuer, verifier, clock, tmp_path, damaged):
    far = claims(int(clock.wall_seconds()) + 60)
    verifier.verify("Bearer " + issuer.issue(Audience.INFERENCE, far, 0))
    path = tmp_path / "jwks.json"
    if damaged is None:
        path.unlink()
    else:
        path.write_text(damaged)
    rotated = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    clock.advance(1.0)
    with pytest.raises(UnauthenticatedError):
        verifier.verify("Bearer " + rotated.issue(Audience.INFERENCE, far, 0))
    # Another token of the old key: its signature is not known yet.
    assert verifier.verify("Bearer " + issuer.issue(Audience.INFERENCE, far, 1)).key_id == "k1"
    path.write_text('{"keys": []}')
    clock.advance(1.0)
    for seconds, one in enumerate((rotated, issuer), start=2):
        with pytest.raises(UnauthenticatedError):
            verifier.verify("Bearer " + one.issue(Audience.INFERENCE, far, seconds))
