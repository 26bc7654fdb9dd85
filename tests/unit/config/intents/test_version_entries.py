"""The entries of config versions in a tenant's audit log."""

from __future__ import annotations

from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.config.intents.version_entries import version_entry


def test_a_version_number_that_comes_again_after_a_restore_is_told_again():
    one, other = tenant_pb2.TenantConfig(weight=1), tenant_pb2.TenantConfig(weight=2)
    first = version_entry("u", stored_pb2.StoredVersion(config_version=6, config_sha256="a" * 64), one)
    again = version_entry("u", stored_pb2.StoredVersion(config_version=6, config_sha256="a" * 64), one)
    restored = version_entry("u", stored_pb2.StoredVersion(config_version=6, config_sha256="b" * 64), other)
    assert first.record_id == again.record_id != restored.record_id
