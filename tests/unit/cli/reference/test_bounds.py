"""Every bound in the reference is the service's own: at it a value is accepted, just beyond it refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st
from tenantry.config.v1 import adapter_pb2, credential_pb2, pool_pb2, tenant_pb2
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.cli.reference.catalog import Field, load
from services.common.errors import InvalidArgumentError
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.admin import keys, page_tokens, propagation
from services.config.admin.tenant_config import resource_violations
from services.config.rules import patterns
from services.config.rules.catalog_rules import model_violations, pool_violations
from services.config.rules.report import Surroundings
from services.config.rules.serving import PoolFacts
from services.config.rules.validation import validate_config, validate_tenant_id
from services.config.state import allocation
from services.config.state.resources import parse_name, require_id
from tests.fakes.config_plane import ConfigPlane

CATALOG = load()
AROUND = Surroundings(
    "tenants/acme",
    {"models/m": 1 << 30},
    {"pools/p": PoolFacts("models/m", "")},
    has_key=lambda key_id: key_id.startswith("k"),
)
WINDOWS = (tenant_pb2.QUOTA_WINDOW_HOUR, tenant_pb2.QUOTA_WINDOW_DAY, tenant_pb2.QUOTA_WINDOW_MONTH)
# Checked below by name.
OF_CALLS = {
    "Adapter.name", "AdapterHeader.adapter_id", "CreateBaseModelRequest.base_model_id", "CreatePoolRequest.pool_id",
    "CreateTenantRequest.tenant_id", "FileChunk.file", "Key.display_name", "Key.scopes",
}  # fmt: skip


def tenant() -> tenant_pb2.Tenant:
    """Good, and as permissive as may be, so that one field's bound is not another's."""
    config = tenant_pb2.TenantConfig(models=[tenant_pb2.ModelAlias(alias="a", base_model="models/m")])
    config.parameter_bounds.max_output_tokens = 1 << 20
    config.deadlines.max_timeout.seconds = 3600
    config.guardrails.add(rule_id="r", action=tenant_pb2.GUARDRAIL_ACTION_REDACT, pattern="x")
    config.quotas.add(window=tenant_pb2.QUOTA_WINDOW_MONTH, tokens=1)
    config.key_limits.add(key="k", concurrent_requests=1)
    config.prices.add(base_model="models/m")
    config.spend_budgets.add(window=tenant_pb2.QUOTA_WINDOW_MONTH, micro_units=1)
    return tenant_pb2.Tenant(name="tenants/acme", config=config)


def pool() -> pool_pb2.Pool:
    capacity = pool_pb2.Capacity(
        concurrent_requests=1, adapters=1, adapter_rank=1, kv_tokens=1, queued_requests=1
    )
    return pool_pb2.Pool(
        base_model="models/m",
        dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
        server_model="m",
        endpoints=[pool_pb2.Endpoint(target="a:1")],
        capacity=capacity,
        engine_sha256="0" * 64,
        adapter_dtype="float16",
        adapter_config_columns=3,
    )


def model() -> pool_pb2.BaseModel:
    shape = pool_pb2.Architecture(layers=1, hidden=1, heads=1, kv_heads=1, head_dim=1, mlp=1, vocabulary=1)
    return pool_pb2.BaseModel(
        context_tokens=1,
        architecture=shape,
        weights_sha256="0" * 64,
        tokenizer_sha256="0" * 64,
        chat_template_sha256="0" * 64,
    )


def refused(resource: Any) -> set[str]:
    """The fields a resource's rules complain about, as paths of the reference."""
    if isinstance(resource, tenant_pb2.Tenant):
        found = validate_config(resource.config, AROUND) + resource_violations(resource, resource)
    elif isinstance(resource, pool_pb2.Pool):
        found = pool_violations(resource, resource)
    else:
        found = model_violations(resource)
    return {re.sub(r"\[\d+\]", "", violation.field.replace("base_model.", "model.")) for violation in found}


MADE = {"tenant": tenant, "pool": pool, "model": model}
BOUNDED = {
    path: field
    for topic in MADE
    for path, field in CATALOG.walk(CATALOG.messages[CATALOG.topics[topic]], topic)
    if field.behaviour not in {"output_only", "identifier"}
    and any(
        bound is not None and bound not in ("", ())
        for bound in (field.minimum, field.maximum, field.above, field.characters, field.bytes, field.items,
                      field.form, field.choices)
    )
}  # fmt: skip


def holder(resource: Any, path: str) -> tuple[Any, str]:
    """The message that has the field of a path, and the field's name; of a list, its first item."""
    message, (*groups, last) = resource, path.split(".")[1:]
    for group in groups:
        inside = getattr(message, group)
        message = inside if isinstance(inside, Message) else inside[0]
    return message, last


def with_value(path: str, value: Any) -> Any:
    resource = MADE[path.split(".", maxsplit=1)[0]]()
    message, name = holder(resource, path)
    if isinstance(value, Duration):
        getattr(message, name).CopyFrom(value)
    elif isinstance(value, list):
        del getattr(message, name)[:]
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)
    return resource


def nanoseconds(text: str) -> int:
    return int(float(text.removesuffix("s")) * 1_000_000_000)


def duration(total: int) -> Duration:
    made = Duration()
    made.FromNanoseconds(total)
    return made


def steps(field: Field, bound: Any, beyond: int) -> tuple[Any, Any]:
    """A bound, and the next value in a direction."""
    if field.type == "duration":
        total = nanoseconds(bound)
        return duration(total), duration(total + beyond)
    if field.type == "integer":
        return bound, bound + beyond
    # A float32 field rounds: the step has to be one that it keeps.
    return float(bound), float(bound) + beyond * max(abs(bound), 1) * 1e-6


def texts(low: int, high: int, unit: str) -> Iterator[tuple[str, bool]]:
    """Texts at the bounds and beyond, and whether they are in them. Of bytes, one in characters of two bytes."""
    yield "a" * high, True
    yield "a" * (high + 1), False
    yield "a" * low, True
    if low:
        yield "a" * (low - 1), False
    if unit == "bytes":
        yield "é" * (high // 2 + 1), False
    else:
        yield "é" * high, True


def items(path: str, number: int) -> list[Any]:
    """That many, each good by itself."""
    if path == "tenant.config.models":
        return [tenant_pb2.ModelAlias(alias=f"a{place}", base_model="models/m") for place in range(number)]
    if path == "tenant.config.guardrails":
        deny = tenant_pb2.GUARDRAIL_ACTION_DENY
        return [
            tenant_pb2.GuardrailRule(rule_id=f"r{place}", action=deny, pattern="x") for place in range(number)
        ]
    if path == "tenant.config.quotas":
        return [tenant_pb2.Quota(window=WINDOWS[place % 3], tokens=place + 1) for place in range(number)]
    if path == "tenant.config.key_limits":
        return [tenant_pb2.KeyLimits(key=f"k{place}", concurrent_requests=1) for place in range(number)]
    if path == "tenant.config.shadow_limits":
        return [place % 13 + 1 for place in range(number)]
    if path == "tenant.config.spend_budgets":
        return [
            tenant_pb2.SpendBudget(window=WINDOWS[place % 2 + 1], micro_units=place + 1)
            for place in range(number)
        ]
    if path == "tenant.config.prices":
        adapters = ["", *(f"a{place}" for place in range(number))]
        return [
            tenant_pb2.TokenPrice(base_model="models/m", adapter=adapters[place]) for place in range(number)
        ]
    assert path == "pool.endpoints"
    return [pool_pb2.Endpoint(target=f"a:{port}") for port in range(1, number + 1)]


def cases(path: str, field: Field) -> Iterator[tuple[Any, bool]]:
    """Values of a field, and whether the reference allows them."""
    for bound, beyond in ((field.minimum, -1), (field.maximum, 1)):
        if bound is not None:
            at, past = steps(field, bound, beyond)
            yield from ((at, True), (past, False))
    if field.above is not None:
        at, past = steps(field, field.above, 1)
        yield from ((at, False), (past, True))
    for unit, bounds in (("characters", field.characters), ("bytes", field.bytes)):
        if bounds is not None:
            yield from texts(*bounds, unit)
    if field.items is not None:
        low, high = field.items
        yield from ((items(path, high), True), (items(path, high + 1), False), (items(path, low), True))
        if low:
            yield items(path, low - 1), False
    if field.choices:
        yield from ((choice, True) for choice in field.choices)
        yield from ((choice, False) for choice in (("float64", "") if field.type == "text" else (2, 5)))
    if field.minimum is not None and field.maximum is not None and field.type == "number":
        yield math.nan, False
        yield math.inf, False


@pytest.mark.parametrize("path", BOUNDED)
def test_a_bound_is_the_rules_own(path):
    field, seen = BOUNDED[path], 0
    for value, allowed in cases(path, field):
        assert (path in refused(with_value(path, value))) != allowed, (value, allowed)
        seen += 1
    assert seen or field.form


FORMS = {path: field for path, field in BOUNDED.items() if field.form}
LABELS = st.text("abz059-_.A ä", max_size=66) | st.sampled_from(
    ["a" * 63, "a" * 64, "a" * 65, "0" * 64, "f" * 63]
)


@pytest.mark.parametrize("path", FORMS)
@given(LABELS)
@example("")
def test_a_form_is_the_rules_own(path, text):
    allowed = re.fullmatch(FORMS[path].form, text) is not None
    assert (path in refused(with_value(path, text))) != allowed


@pytest.mark.parametrize(
    "message", ["CreateTenantRequest", "CreatePoolRequest", "CreateBaseModelRequest", "AdapterHeader"]
)
@given(LABELS)
@example("a" * 63)
@example("a" * 64)
def test_the_form_of_an_id_is_the_services(message, text):
    field = next(field for field in CATALOG.messages[message].fields.values() if field.form)
    if message == "CreateTenantRequest":
        accepted = not validate_tenant_id(text)
    else:
        try:
            accepted = require_id(text, "id") == text
        except InvalidArgumentError:
            accepted = False
    assert (re.fullmatch(field.form, text) is not None) == accepted


@pytest.mark.parametrize("topic", ["pool", "model"])
@given(LABELS)
def test_the_form_of_a_name_is_the_services(topic, text):
    message = CATALOG.messages[CATALOG.topics[topic]]
    name = f"{topic}s/{text}"
    try:
        accepted = bool(parse_name(name, f"{topic}s/{{{topic}}}", field="name"))
    except InvalidArgumentError:
        accepted = False
    assert (re.fullmatch(message.fields["name"].form, name) is not None) == accepted


async def refused_by_the_service(plane: ConfigPlane, method: str, request: Any) -> set[str]:
    try:
        await plane.call(method, request)
    except InvalidArgumentError as error:
        return {violation.field for violation in error.violations}
    return set()


async def test_a_keys_bounds_are_the_services(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    fields = CATALOG.messages["Key"].fields
    assert fields["display_name"].characters
    assert fields["scopes"].items
    high = fields["display_name"].characters[1]
    [scope] = fields["scopes"].choices
    most = fields["scopes"].items[1]
    for key, wrong in (
        (credential_pb2.Key(display_name="é" * high), set()),
        (credential_pb2.Key(display_name="a" * (high + 1)), {"key.display_name"}),
        (credential_pb2.Key(scopes=[scope] * most), set()),
        (credential_pb2.Key(scopes=[scope] * (most + 1)), {"key.scopes"}),
        (credential_pb2.Key(scopes=["other"]), {"key.scopes"}),
    ):
        request = pb.CreateKeyRequest(parent="tenants/acme", key=key, validate_only=True)
        assert await refused_by_the_service(plane, "CreateKey", request) == wrong


async def test_a_reasons_length_and_a_pages_size_are_the_services(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    for message in CATALOG.messages.values():
        if message.name.endswith("Request") or message.name == "AdapterHeader":
            if "reason" in message.fields:
                assert message.fields["reason"].characters == (0, 512)
            if "page_size" in message.fields:
                size = message.fields["page_size"]
                assert size.default
                assert size.default.value == page_tokens.DEFAULT_PAGE
                assert str(page_tokens.MAX_PAGE) in size.about
    for length, wrong in ((512, set()), (513, {"reason"})):
        request = pb.SuspendTenantRequest(name="tenants/acme", reason="é" * length, validate_only=True)
        assert await refused_by_the_service(plane, "SuspendTenant", request) == wrong
    below = pb.ListTenantsRequest(page_size=-1)
    assert await refused_by_the_service(plane, "ListTenants", below) == {"page_size"}


def test_what_is_counted_out_and_uploaded_has_the_services_bounds():
    tenants = CATALOG.messages["Tenant"].fields
    assert tenants["ordinal"].maximum == allocation.MAX_ORDINAL
    chunk = CATALOG.messages["FileChunk"].fields
    assert set(chunk["file"].choices) == {WEIGHTS_FILE, CONFIG_FILE}


@pytest.mark.parametrize(
    ("path", "phrase"),
    [
        ("tenant.config.guardrails", f"need {patterns.MAX_PROGRAM_SIZE_TOGETHER} RE2 instructions"),
        ("tenant.config.guardrails.pattern", f"need {patterns.MAX_PROGRAM_SIZE} RE2 instructions"),
        ("tenant.config.guardrails.pattern", f"{patterns.MAX_UNICODE_CLASSES} Unicode classes"),
        ("key.expire_time", f"{keys.MAX_LIFETIME_SECONDS // 86_400} days"),
        ("WaitForPropagationRequest", f"at most {propagation.MAX_WAIT_SECONDS:.0f} s"),
    ],
)
def test_a_number_in_a_description_is_the_services(path, phrase):
    place = CATALOG.find(path)
    described = place.field or place.message
    assert described is not None
    assert phrase in described.about


def test_a_default_in_words_has_the_services_number():
    place = CATALOG.find("key.expire_time")
    assert place.field is not None
    assert place.field.default is not None
    assert place.field.default.text == f"{keys.DEFAULT_LIFETIME_SECONDS // 86_400} days from now"


@pytest.mark.parametrize(("length", "good"), [(112, True), (113, False)])
def test_an_endpoints_path_is_as_long_as_described(length, good):
    place = CATALOG.find("pool.endpoints.target")
    assert place.field is not None
    assert "of at most 112 characters" in place.field.about
    target = "unix:/" + "a" * (length - 6)
    assert ("pool.endpoints.target" not in refused(with_value("pool.endpoints.target", target))) == good


def test_no_bound_goes_unchecked():
    """A new bounded field of a call, an answer or a key has to be named above."""
    reached = {field for _, field in BOUNDED.items()}
    bounded = {
        f"{message.name}.{field.name}"
        for message in CATALOG.messages.values()
        for field in message.fields.values()
        if (field.characters or field.bytes or field.items or field.form or field.choices)
        and field not in reached
        and field.behaviour != "output_only"
    }
    named = OF_CALLS | {"Tenant.name", "Pool.name", "BaseModel.name"}
    assert {name for name in bounded if not name.endswith(".reason")} <= named
