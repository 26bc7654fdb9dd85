"""The schema accepts what the service accepts and refuses what it refuses; the example applies as it is."""

from __future__ import annotations

from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # the wheel carries no types
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2, tenant_pb2

from services.cli.declarative.declared import declared_plain, read_declared
from services.cli.demo import provisioning
from services.cli.documents import read_document, to_message, to_plain
from services.cli.reference.catalog import load
from services.cli.reference.documents import DOCUMENTS, is_written
from services.cli.reference.example import annotated_example
from services.cli.reference.schema import json_schema
from services.config.rules.catalog_rules import pool_violations
from services.config.rules.report import Surroundings
from services.config.rules.serving import PoolFacts
from services.config.rules.validation import validate_config
from tests.fakes.config_plane import ConfigPlane

CATALOG = load()
# The context of the demo's model.
AROUND = Surroundings("tenants/acme", {"models/smollm2": 2048}, {"pools/local": PoolFacts("models/smollm2")})
VALIDATORS = {topic: Draft202012Validator(json_schema(topic, CATALOG)) for topic in DOCUMENTS}


def complaints(document: Any, topic: str = "tenant") -> list[str]:
    errors: list[ValidationError] = list(VALIDATORS[topic].iter_errors(document))
    return [".".join(map(str, error.absolute_path)) for error in errors]


@pytest.mark.parametrize("topic", DOCUMENTS)
def test_a_schema_is_one(topic):
    Draft202012Validator.check_schema(json_schema(topic, CATALOG))


@pytest.fixture
def demo(shell, admin):
    """The demo's tenants, in a service that keeps what it is sent."""
    for tenant in provisioning.DEMO_TENANTS:
        alias = tenant_pb2.ModelAlias(
            alias=provisioning.ALIAS, base_model="models/smollm2", adapter=tenant.adapter
        )
        config = tenant_pb2.TenantConfig(models=[alias])
        admin.add_tenant(tenant.tenant_id, display_name=tenant.display_name, config=config)
    return admin


def test_the_exported_demo_tenants_are_accepted(shell, demo, tmp_path):
    shell("tenant", "export", "-o", str(tmp_path / "tenants"))
    files = sorted((tmp_path / "tenants").iterdir())
    assert len(files) == len(provisioning.DEMO_TENANTS) == 3
    for file in files:
        assert complaints(read_document(file)) == []


BAD = [
    ("display_name", "x" * 129),
    ("config.modles", []),
    ("config.models", []),
    ("config.models", "a"),
    ("config.weight", 0),
    ("config.weight", 1001),
    ("config.weight", "heavy"),
    ("config.audit_policy", "BATCH"),
    ("config.audit_policy", "AUDIT_POLICY_UNSPECIFIED"),
    ("config.isolation_tier", 7),
    ("config.limits.requests_per_second", -1),
    ("config.limits.input_tokens", 2.5),
    ("config.parameter_defaults.top_p", 0),
    ("config.parameter_defaults.temperature", 2.5),
    ("config.deadlines.max_timeout", 30),
    ("config.deadlines.max_timeout", "30 seconds"),
    ("config.guardrails.0.rule_id", "No Spaces"),
    ("config.guardrails.0.pattern", ""),
    ("config.guardrails.0.replacement", "x" * 257),
    ("config.quotas.0.tokens", 0),
    ("config.priorities.max_priority", 4),
    ("state", "TENANT_STATE_ACTIVE"),
    ("tenant", "Acme"),
]


def example(topic: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(annotated_example(topic, CATALOG))
    return found


@pytest.mark.parametrize(("path", "value"), BAD, ids=lambda part: str(part)[:30])
def test_a_bad_document_is_refused_where_it_is_bad(path, value):
    document = example("tenant")
    *groups, last = path.split(".")
    inside: Any = document
    for group in groups:
        inside = inside[int(group) if group.isdigit() else group]
    inside[last] = value
    [complaint] = complaints(document)
    # A field that does not exist is its parent's fault.
    assert complaint in {path, path.rpartition(".")[0]}


@pytest.mark.parametrize(
    "left_out", ["tenant", "config", "config.models", "config.models.0.alias", "config.quotas.0.window"]
)
def test_what_is_required_is_missed(left_out):
    document = example("tenant")
    *groups, last = left_out.split(".")
    inside: Any = document
    for group in groups:
        inside = inside[int(group) if group.isdigit() else group]
    del inside[last]
    assert complaints(document) == [".".join(groups)]


@pytest.mark.parametrize("topic", ["tenant", "pool"])
def test_an_example_is_accepted_by_its_schema_and_shows_every_field(topic):
    text = annotated_example(topic, CATALOG)
    assert complaints(example(topic), topic) == []
    assert max(map(len, text.splitlines())) <= 110
    message, form = CATALOG.messages[CATALOG.topics[topic]], DOCUMENTS[topic]
    for field in message.fields.values():
        if is_written(form, field):
            below = CATALOG.walk(CATALOG.messages[field.message], "") if field.message else ()
            for name in [field.name, *(path.rpartition(".")[2] for path, _ in below)]:
                assert f"{name}:" in text


def test_the_example_tenant_keeps_the_services_rules_and_applies(shell, admin, tmp_path):
    file = tmp_path / "acme.yaml"
    file.write_text(shell("explain", "--example", "tenant").stdout)
    [declared] = read_declared(file)
    assert validate_config(declared.tenant.config, AROUND) == []
    applied = shell("tenant", "apply", "-f", str(file), "--yes")
    assert applied.exit_code == 0, applied.output
    assert admin.tenants["tenants/acme"].config == declared.tenant.config
    assert "Nothing to do" in shell("tenant", "apply", "-f", str(file), "--yes").stdout


async def test_the_example_tenant_is_accepted_by_the_service_itself(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model("smollm2")
    await plane.new_pool("local", base_model="models/smollm2")
    file = tmp_path / "acme.yaml"
    file.write_text(annotated_example("tenant", CATALOG))
    [declared] = read_declared(file)
    request = pb.CreateTenantRequest(tenant_id=declared.tenant_id, tenant=declared.tenant)
    created = await plane.call("CreateTenant", request)
    assert declared_plain(created) == read_document(file)


async def test_the_example_pool_is_accepted_by_the_service_itself(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model("smollm2")
    pool = to_message(example("pool"), pool_pb2.Pool(), "the example")
    assert pool_violations(pool, pool) == []
    created = await plane.call("CreatePool", pb.CreatePoolRequest(pool_id="p", pool=pool))
    assert created.endpoints[0].target == pool.endpoints[0].target
    # What `pool get` prints is a document of the same form.
    assert complaints(to_plain(created), "pool") == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(CATALOG.messages["Limits"].fields)), st.integers(-2, 1 << 51))
def test_schema_and_rules_agree_about_numbers(field, value):
    limits = {field: value}
    config = {"models": [{"alias": "a", "base_model": "models/smollm2"}], "limits": limits}
    accepted = complaints({"tenant": "acme", "config": config}) == []
    if abs(value) < 1 << 31:
        message = to_message(config, tenant_pb2.TenantConfig(), "a test")
        wide = Surroundings("tenants/acme", {"models/smollm2": 1 << 30}, AROUND.pools)
        assert accepted == (validate_config(message, wide) == [])
