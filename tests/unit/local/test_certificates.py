from __future__ import annotations

import datetime as dt
import ssl

import pytest
from cryptography import x509

from services.local.certificates import ensure_certificates

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def test_made_once_and_kept(tmp_path):
    first = ensure_certificates(tmp_path / "c", NOW)
    leaf, ca = first.certificate_path.read_bytes(), first.ca_path.read_bytes()
    again = ensure_certificates(tmp_path / "c", NOW + dt.timedelta(days=1))
    assert (again.certificate_path.read_bytes(), again.ca_path.read_bytes()) == (leaf, ca)
    for name in ("ca.key", "edge.key"):
        assert (tmp_path / "c" / name).stat().st_mode & 0o77 == 0


def test_a_certificate_near_its_end_is_renewed_under_the_same_authority(tmp_path):
    first = ensure_certificates(tmp_path, NOW)
    leaf, ca = first.certificate_path.read_bytes(), first.ca_path.read_bytes()
    later = NOW + dt.timedelta(days=84)
    made = ensure_certificates(tmp_path, later)
    assert made.ca_path.read_bytes() == ca
    assert made.certificate_path.read_bytes() != leaf
    authority = x509.load_pem_x509_certificate(ca)
    renewed = x509.load_pem_x509_certificate(made.certificate_path.read_bytes())
    renewed.verify_directly_issued_by(authority)
    assert renewed.not_valid_after_utc > later + dt.timedelta(days=30)


def test_the_certificate_is_for_this_host_only(tmp_path):
    made = ensure_certificates(tmp_path, NOW)
    leaf = x509.load_pem_x509_certificate(made.certificate_path.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "edge.pem", "edge.key"])
@pytest.mark.parametrize("spoil", ["truncated", "gone", "of another"])
def test_what_a_cut_off_run_left_is_made_anew(tmp_path, name, spoil):
    made = ensure_certificates(tmp_path / "c", NOW)
    other = ensure_certificates(tmp_path / "other", NOW).ca_path.with_name(name)
    file = tmp_path / "c" / name
    if spoil == "truncated":
        file.write_bytes(file.read_bytes()[:40])
    elif spoil == "gone":
        file.unlink()
    else:
        file.write_bytes(other.read_bytes())
    assert ensure_certificates(tmp_path / "c", NOW) == made
    # Would raise for a key that is not the certificate's.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.certificate_path, made.key_path)
    authority = x509.load_pem_x509_certificate(made.ca_path.read_bytes())
    x509.load_pem_x509_certificate(made.certificate_path.read_bytes()).verify_directly_issued_by(authority)
