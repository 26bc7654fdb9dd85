"""A local certificate authority, made at the first run, and the edge's certificate for this host."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.common.durable_files import replace_file

_CA_DAYS, _LEAF_DAYS, _RENEW_DAYS = 3650, 90, 7
_NAMES = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of the edge, and of the authority callers trust."""

    ca_path: Path
    certificate_path: Path
    key_path: Path


def ensure_certificates(folder: Path, now: dt.datetime) -> Certificates:
    """Make certificates and keys that are missing, unreadable, about to expire or not of each other.

    The authority's key never leaves its file of mode 0600.
    """
    made = Certificates(folder / "ca.pem", folder / "edge.pem", folder / "edge.key")
    ca_key_path = folder / "ca.key"
    ca, ca_key = _read_pair(made.ca_path, ca_key_path, now) or _new_authority(made.ca_path, ca_key_path, now)
    leaf = _read_pair(made.certificate_path, made.key_path, now)
    if leaf is None or not _issued_by(leaf[0], ca):
        key = ec.generate_private_key(ec.SECP256R1())
        replace_file(made.key_path, _key_pem(key))
        _write_certificate(made.certificate_path, _leaf(key, ca, ca_key, now))
    return made


def _new_authority(path: Path, key_path: Path, now: dt.datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _authority(key, now)
    replace_file(key_path, _key_pem(key))
    _write_certificate(path, certificate)
    return certificate, key


def _read_pair(path: Path, key_path: Path, now: dt.datetime) -> Pair | None:
    """A certificate and its key; None where either is missing or damaged, or the two do not match."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    lasts = certificate.not_valid_after_utc > now + dt.timedelta(days=_RENEW_DAYS)
    return (certificate, key) if lasts else None


def _issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _builder(name: str, days: int, now: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _authority(key: ec.EllipticCurvePrivateKey, now: dt.datetime) -> x509.Certificate:
    name = "tenantry local CA"
    return (
        _builder(name, _CA_DAYS, now)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _leaf(
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
) -> x509.Certificate:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder("tenantry edge", _LEAF_DAYS, now)
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(_NAMES), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    replace_file(path, certificate.public_bytes(serialization.Encoding.PEM))
