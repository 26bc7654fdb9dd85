"""The defaults that `tenant get` shows are those that routers serve with, and never get into a written-back config."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st
from tenantry.config.v1 import tenant_pb2

from services.cli.declarative.declared import read_tenant
from services.cli.declarative.effective_tenant import annotated_tenant, effective_record
from services.cli.documents import to_plain
from services.cli.reference.catalog import load
from services.cli.reference.effective import effective_config
from services.config.rules.report import Surroundings
from services.config.rules.serving import PoolFacts
from services.config.rules.validation import validate_config
from services.router.snapshot import tenant_rules
from services.router.snapshot.model import Durability, Tier
from services.router.snapshot.tenant_compiler import Catalog, compile_tenant

CATALOG = load()
AROUND = Surroundings("tenants/acme", {"models/m": 1 << 30}, {"pools/p": PoolFacts("models/m", "")})
TIERS = {Tier.SHARED: "SHARED", Tier.ISOLATED: "ISOLATED", Tier.DEDICATED: "DEDICATED"}
POLICIES = {
    Durability.BATCH: "BATCH",
    Durability.BLOCKING: "BLOCKING",
    Durability.BLOCKING_STRICT: "BLOCKING_STRICT",
}


def some(strategy):
    return st.none() | strategy


@st.composite
def configs(draw) -> tenant_pb2.TenantConfig:
    """Configs that the service accepts; every field is set in some of them and unset in others."""
    config = tenant_pb2.TenantConfig()
    for number in range(draw(st.integers(1, 3))):
        alias = config.models.add(alias=f"a{number}", base_model="models/m")
        if draw(st.booleans()):
            alias.system_prompt = draw(st.sampled_from(["", "own", "x\ny"]))
    optional: dict[str, Any] = {
        "default_model": st.just("a0"),
        "system_prompt": st.sampled_from(["", "Be calm.", "one\n\ttwo\n", "# no comment", "- no list"]),
        "weight": st.integers(1, 1000),
        "isolation_tier": st.integers(0, 2),
        "audit_policy": st.integers(0, 3),
        "staleness_policy": st.integers(0, 2),
    }
    fill(draw, config, optional)
    tokens = st.integers(1, 1 << 20)
    degrees = st.floats(0, 2, width=32)
    fill(draw, config.parameter_defaults, {"max_output_tokens": tokens, "temperature": degrees, "top_k": tokens,
                                           "top_p": st.floats(0.125, 1, width=32)})  # fmt: skip
    bounds = {"max_output_tokens": tokens, "min_temperature": degrees, "max_temperature": degrees}
    fill(draw, config.parameter_bounds, bounds)
    whole = st.integers(0, 1000)
    fill(draw, config.limits, dict.fromkeys(CATALOG.messages["Limits"].fields, whole))
    fill(draw, config.priorities, dict.fromkeys(("default_priority", "max_priority"), st.integers(1, 3)))
    for name in ("default_timeout", "max_timeout"):
        seconds = draw(some(st.integers(1, 3600)))
        if seconds is not None:
            getattr(config.deadlines, name).CopyFrom(Duration(seconds=seconds))
    for number in range(draw(st.integers(0, 2))):
        rule = config.guardrails.add(
            rule_id=f"r{number}", action=2, pattern="x", stage=draw(st.integers(0, 2))
        )
        fill(draw, rule, {"replacement": st.sampled_from(["", "…"])})
    for group in ("parameter_defaults", "parameter_bounds", "limits", "priorities", "deadlines"):
        if not getattr(config, group).ByteSize() and draw(st.booleans()):
            config.ClearField(group)
    return config


def fill(draw, message, fields) -> None:
    for name, strategy in fields.items():
        value = draw(some(strategy))
        if value is not None:
            setattr(message, name, value)


def compiled(config: tenant_pb2.TenantConfig) -> Any:
    """The tenant as a router serves it."""
    reasons: list[str] = []
    tenant = tenant_pb2.Tenant(name="tenants/acme", tenant_uid="u", config=config)
    return compile_tenant(tenant, [], Catalog({}, {}), reasons)


@settings(max_examples=60, deadline=None)
@given(configs())
def test_the_effective_config_is_what_routers_serve_with(config):
    if validate_config(config, AROUND):
        return
    effective = effective_config(to_plain(config), CATALOG).values
    router = compiled(config)
    for name in ("requests_per_second", "request_burst", "concurrent_requests", "input_bytes", "input_tokens",
                 "tokens_per_minute"):  # fmt: skip
        assert effective["limits"][name] == getattr(router.limits, name)
    rules, defaults, bounds = (
        router.parameters,
        effective["parameter_defaults"],
        effective["parameter_bounds"],
    )
    # As the router clamps what a request leaves unset.
    assert defaults["max_output_tokens"] == min(rules.default_max_output_tokens, rules.max_output_tokens)
    clamped = min(max(rules.default_temperature, rules.min_temperature), rules.max_temperature)
    assert math.isclose(defaults["temperature"], clamped, rel_tol=1e-6)
    assert math.isclose(defaults["top_p"], rules.default_top_p, rel_tol=1e-6)
    assert defaults["top_k"] == rules.default_top_k
    assert bounds["max_output_tokens"] == rules.max_output_tokens
    assert math.isclose(bounds["min_temperature"], rules.min_temperature, rel_tol=1e-6)
    assert math.isclose(bounds["max_temperature"], rules.max_temperature, rel_tol=1e-6)
    assert effective["weight"] == router.weight
    assert effective["isolation_tier"] == f"ISOLATION_TIER_{TIERS[router.tier]}"
    assert effective["audit_policy"] == f"AUDIT_POLICY_{POLICIES[router.durability]}"
    assert (effective["staleness_policy"] == "STALENESS_POLICY_SERVE") == router.serve_stale
    seconds = [
        float(effective["deadlines"][f"{name}_timeout"].removesuffix("s")) for name in ("default", "max")
    ]
    assert seconds == [router.default_timeout_seconds, router.max_timeout_seconds]
    priorities = router.priorities
    assert effective["priorities"] == {
        "default_priority": priorities.default_priority,
        "max_priority": priorities.max_priority,
    }
    assert effective["default_model"] == router.default_alias
    for shown, rule in zip(effective["guardrails"], config.guardrails, strict=True):
        assert shown["replacement"] == tenant_rules._rule(rule).replacement


def test_an_aliases_prompt_is_the_tenants_unless_it_has_its_own():
    config = tenant_pb2.TenantConfig(system_prompt="theirs")
    config.models.add(alias="a", base_model="models/m")
    config.models.add(alias="b", base_model="models/m").system_prompt = ""
    effective = effective_config(to_plain(config), CATALOG).values
    assert [model["system_prompt"] for model in effective["models"]] == ["theirs", ""]


@settings(max_examples=60, deadline=None)
@given(configs())
def test_the_annotated_document_comes_back_as_the_tenant_it_shows(tmp_path_factory, config):
    tenant = tenant_pb2.Tenant(name="tenants/acme", display_name="A: b # c", config=config, etag='"1"')
    file = tmp_path_factory.mktemp("annotated") / "acme.yaml"
    file.write_text(annotated_tenant(tenant))
    assert read_tenant(file) == tenant


@given(configs())
def test_every_field_is_either_set_or_named_as_a_default(config):
    record = effective_record(tenant_pb2.Tenant(config=config))
    paths = set(record["config_defaults"])
    for field in config.DESCRIPTOR.fields:
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            unset = field.name not in record.get("config", {})
            assert (field.name in paths) == unset
