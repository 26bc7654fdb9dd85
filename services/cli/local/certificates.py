"""A local certificate authority, made at the first run, and the edge's certificate for this host."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_DAYS, _LEAF_DAYS, _RENEW_DAYS = 3650, 90, 7
_NAMES = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of the edge, and of the authority callers trust."""

    ca_path: Path
    certificate_path: Path
    key_path: Path


def ensure_certificates(folder: Path, now: dt.datetime) -> Certificates:
    """Make what is missing or about to expire; the authority's key never leaves its file of mode 0600."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Certificates(folder / "ca.pem", folder / "edge.pem", folder / "edge.key")
    ca_key_path = folder / "ca.key"
    if not _good(made.ca_path, now) or not ca_key_path.exists():
        ca_key = ec.generate_private_key(ec.SECP256R1())
        _write(ca_key_path, _key_pem(ca_key), 0o600)
        _write(made.ca_path, _authority(ca_key, now).public_bytes(serialization.Encoding.PEM), 0o644)
        made.certificate_path.unlink(missing_ok=True)
    if not _good(made.certificate_path, now) or not made.key_path.exists():
        ca_key = _load_key(ca_key_path)
        ca = x509.load_pem_x509_certificate(made.ca_path.read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        _write(made.key_path, _key_pem(key), 0o600)
        leaf = _leaf(key, ca, ca_key, now)
        _write(made.certificate_path, leaf.public_bytes(serialization.Encoding.PEM), 0o644)
    return made


def _good(path: Path, now: dt.datetime) -> bool:
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_after_utc > now + dt.timedelta(days=_RENEW_DAYS)


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


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _write(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
