"""Keys as signed JWTs: one service issues them; Envoy verifies them, and so does every service they reach.

A token only names a principal. Whether its key is revoked or its tenant suspended is looked up by key id. ES256 (RFC
7518), and one issuer and audience for each kind of principal, so that no token is accepted as one of another kind.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.common.clock import Clock
from services.common.errors import UnauthenticatedError

_log = logging.getLogger(__name__)

ALGORITHM = "ES256"
CONFIG_ISSUER = "tenantry"
AUDIT_ISSUER = "tenantry-audit"
MAX_TOKEN_BYTES = 4096
MALFORMED_AUTHORIZATION = "the authorization header must hold the scheme Bearer, one space and one key"
# The scheme in any case (RFC 9110, section 11.1), then one b64token (RFC 6750, section 2.1); the edge demands the same.
_ONE_BEARER = re.compile(r"(?i:bearer) (?P<token>[A-Za-z0-9._~+/-]+=*)")
_CACHED_SIGNATURES = 16_384


class Audience(StrEnum):
    """The audience of a token. Each kind of principal has its own."""

    INFERENCE = "tenantry-inference"
    OPERATOR = "tenantry-operator"
    REVIEW = "tenantry-review"


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a verified token."""

    key_id: str
    """The key's id: the JWT's `jti`."""
    subject: str
    """The tenant_uid, for a tenant's key and for a reviewer's grant; an operator's name, for an operator's key."""
    scopes: tuple[str, ...]
    """The permitted uses; empty for all that its kind of principal may do."""
    expire_seconds: int
    """Unix time in seconds from which it is refused."""
    role: str
    """For an operator: `platform-admin` or `tenant-admin`; empty otherwise."""
    role_tenant_uid: str
    """For a tenant-admin: the tenant_uid of its tenant; empty otherwise."""


class TokenIssuer:
    """Signs tokens with one private key. The key id in a token's header names the key in the JWKS."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey, issuer: str) -> None:
        self._private_key = private_key
        self._issuer = issuer
        self.signing_key_id = _thumbprint(private_key.public_key())

    @classmethod
    def from_pem(cls, pem: bytes, issuer: str) -> TokenIssuer:
        """Load a PKCS #8 PEM holding a P-256 key."""
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("a token signing key is a P-256 key")
        return cls(key, issuer)

    def issue(self, audience: Audience, claims: Claims, issued_seconds: int) -> str:
        """Sign a token."""
        payload: dict[str, Any] = {
            "iss": self._issuer,
            "aud": audience.value,
            "sub": claims.subject,
            "jti": claims.key_id,
            "iat": issued_seconds,
            "exp": claims.expire_seconds,
        }
        if claims.scopes:
            payload["scope"] = " ".join(claims.scopes)
        if claims.role:
            payload["role"] = claims.role
        if claims.role_tenant_uid:
            payload["role_tenant_uid"] = claims.role_tenant_uid
        return jwt.encode(payload, self._private_key, ALGORITHM, headers={"kid": self.signing_key_id})

    def jwks(self) -> str:
        """The public key as a JSON Web Key Set (RFC 7517), for Envoy and for `TokenVerifier`."""
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(self._private_key.public_key(), as_dict=True)
        jwk.update(kid=self.signing_key_id, alg=ALGORITHM, use="sig")
        return json.dumps({"keys": [jwk]}, indent=1)


def new_signing_key_pem() -> bytes:
    """Make a P-256 key as unencrypted PKCS #8 PEM. Keep it in a file of mode 0400."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return hashlib.sha256(point).hexdigest()[:16]


class TokenVerifier:
    """Verifies tokens of one issuer and audience.

    Signatures are checked once: claims are kept by the token's SHA-256 in a bounded LRU. Expiry is checked on
    every call. A signing key that is not known makes the JWKS file be read again, at most once a second; while the file
    cannot be read, the keys known before stay.
    """

    def __init__(self, jwks_path: Path, issuer: str, audience: Audience, clock: Clock) -> None:
        self._jwks_path = jwks_path
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._read_at_seconds = float("-inf")
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()

    def verify(self, authorization: str | None) -> Claims:
        """Check the value of an `authorization` header.

        Raises:
            UnauthenticatedError: the key is missing or refused, with the same text for every cause; or the header has
                another form, which its own text says.
        """
        if authorization is None or len(authorization) > MAX_TOKEN_BYTES:
            raise UnauthenticatedError
        parts = _ONE_BEARER.fullmatch(authorization)
        if parts is None:
            raise UnauthenticatedError(MALFORMED_AUTHORIZATION)
        token = parts["token"]
        fingerprint = hashlib.sha256(token.encode()).digest()
        claims = self._verified.get(fingerprint)
        if claims is None:
            claims = self._check(token)
            self._verified[fingerprint] = claims
            if len(self._verified) > _CACHED_SIGNATURES:
                self._verified.popitem(last=False)
        else:
            self._verified.move_to_end(fingerprint)
        if claims.expire_seconds <= self._clock.wall_seconds():
            raise UnauthenticatedError
        return claims

    def _check(self, token: str) -> Claims:
        try:
            key = self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            payload = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience.value,
                issuer=self._issuer,
                # Expiry is checked by our own clock, on every call.
                options={
                    "require": ["exp", "iat", "aud", "iss", "sub", "jti"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            return Claims(
                key_id=str(payload["jti"]),
                subject=str(payload["sub"]),
                scopes=tuple(str(payload.get("scope", "")).split()),
                expire_seconds=int(payload["exp"]),
                role=str(payload.get("role", "")),
                role_tenant_uid=str(payload.get("role_tenant_uid", "")),
            )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            raise UnauthenticatedError from None

    def _key(self, signing_key_id: str) -> ec.EllipticCurvePublicKey:
        now = self._clock.monotonic_seconds()
        if signing_key_id not in self._keys and now - self._read_at_seconds >= 1.0:
            self._read_at_seconds = now
            found = self._read()
            if found is not None:
                self._keys = found
        if signing_key_id not in self._keys:
            raise UnauthenticatedError
        return self._keys[signing_key_id]

    def _read(self) -> dict[str, ec.EllipticCurvePublicKey] | None:
        """Every key of the file; None when the file is not a JWKS."""
        try:
            keys = {
                str(jwk["kid"]): _public_key(jwk) for jwk in json.loads(self._jwks_path.read_text())["keys"]
            }
        except (OSError, ValueError, TypeError, KeyError, jwt.PyJWTError) as error:
            _log.error("the keys that tokens are signed with cannot be read: %s", type(error).__name__)
            return None
        return keys


def _public_key(jwk: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    key = jwt.algorithms.ECAlgorithm.from_jwk(jwk)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("not a public key")
    return key
