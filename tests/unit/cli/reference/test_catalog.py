"""The reference has every field that operators set or see, and every path leads somewhere or says where it meant to."""

from __future__ import annotations

import importlib
import json

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tenantry.config.v1 import config_admin_service_pb2

from scripts import config_reference
from services.cli.reference.catalog import UnknownPathError, load
from services.cli.reference.wording import facts

CATALOG = load()
OWN = "tenantry.config.v1."
# What an operator neither sends nor gets: between the mesh's own processes, and in etcd.
INTERNAL = ("config_discovery_service", "quota_lease_service", "stored")


def descriptors(module: str) -> list[Descriptor]:
    file = importlib.import_module(f"tenantry.config.v1.{module}_pb2").DESCRIPTOR
    return list(file.message_types_by_name.values())


MODULES = (
    "adapter",
    "config_admin_service",
    "credential",
    "pool",
    "router_status",
    "tenant",
    "tenant_usage",
    "tenant_version",
)


def test_every_message_of_the_config_protos_is_explained_or_internal():
    internal = {message.name for module in INTERNAL for message in descriptors(module)}
    ours = {message.name for module in MODULES for message in descriptors(module)}
    assert set(CATALOG.messages) == ours
    assert not ours & internal


@pytest.mark.parametrize("module", MODULES)
def test_every_field_is_explained_as_the_contract_has_it(module):
    for message in descriptors(module):
        described = CATALOG.messages[message.name]
        assert list(described.fields) == [field.name for field in message.fields]
        for field in message.fields:
            ours = described.fields[field.name]
            assert ours.about.endswith((".", ":"))
            assert ours.repeated == field.is_repeated
            assert ours.set_by in {"platform-admin", "tenant-admin", "service"}
            if field.enum_type is not None:
                values = [value.name for value in field.enum_type.values if value.number]
                assert [choice.name for choice in CATALOG.enums[ours.enum]] == values
                assert all(choice.about.endswith(".") for choice in CATALOG.enums[ours.enum])
            if field.message_type is not None and field.message_type.full_name.startswith(OWN):
                assert ours.message == field.message_type.name


def test_every_optional_field_of_a_config_has_a_default():
    lacking = [
        path
        for path, field in CATALOG.walk(CATALOG.messages["TenantConfig"], "tenant.config")
        if field.behaviour == "optional"
        and not field.repeated
        and not field.message
        and field.default is None
    ]
    assert lacking == []


def test_every_call_is_listed_with_its_role():
    [service] = config_admin_service_pb2.DESCRIPTOR.services_by_name.values()
    assert list(CATALOG.calls) == [method.name for method in service.methods]
    for method in service.methods:
        call = CATALOG.calls[method.name]
        assert (call.request, call.response) == (method.input_type.name, method.output_type.name)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("tenant.config.guardrail", "tenant.config.guardrails"),
        ("tenant.confg.limits", "tenant.config"),
        ("tenent.config.limits", "tenant.config.limits"),
        ("config.limits.input_bytes", "tenant.config.limits.input_bytes"),
        ("max_timeout", "tenant.config.deadlines.max_timeout"),
        ("createtenantrequest.reason", "CreateTenantRequest.reason"),
        ("pool.capacity.adapters.more", ""),
        ("", ""),
    ],
)
def test_a_mistyped_path_says_what_it_may_have_meant(path, meant):
    with pytest.raises(UnknownPathError) as unknown:
        CATALOG.find(path)
    assert (unknown.value.nearest[0] if unknown.value.nearest else "") == meant


def test_a_path_out_of_an_error_is_understood():
    assert CATALOG.find("tenant.config.models[0].alias") == CATALOG.find("tenant.config.models.alias")
    assert CATALOG.find("base_model.context_tokens") == CATALOG.find("model.context_tokens")
    assert CATALOG.find("credential.scopes") == CATALOG.find("key.scopes")


def test_nobody_sets_what_only_shows_what_was():
    for path in ("version.config.weight", "version.config.limits.input_bytes", "adapter.versions.base_model"):
        place = CATALOG.find(path)
        assert place.field is not None
        assert dict(facts(CATALOG, place.field))["Set by"] == "the config service"


def compiled(comment: str) -> FileDescriptorSet:
    """The smallest contract: one call, one field with a comment."""
    files = FileDescriptorSet()
    file = files.file.add(name="a.proto", package="tenantry.config.v1")
    for name in {message for message, _, _ in config_reference.TOPICS.values()}:
        file.message_type.add(name=name)
    field = file.message_type[0].field.add(name="size", number=1, type=5)
    assert field.name
    service = file.service.add(name="ConfigAdminService")
    calls = {call for _, *calls in config_reference.TOPICS.values() for call in calls if call}
    for call in sorted(calls):
        service.method.add(
            name=call, input_type=".tenantry.config.v1.Tenant", output_type=".tenantry.config.v1.Pool"
        )
    places: list[tuple[tuple[int, ...], str]] = [
        ((4, number), "A message.") for number in range(len(file.message_type))
    ]
    places += [((6, 0, 2, number), "A call.") for number in range(len(service.method))]
    for path, text in [*places, ((4, 0, 2, 0), comment)]:
        file.source_code_info.location.add(path=path, leading_comments=text)
    return files


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "Minimum: 1",
        "A size.\n Minimum: one",
        "A size.\n Bytes: 3",
        "A size.\n Sensitive: no",
        "A size.\n Items: a to b",
    ],
)
def test_a_fact_that_cannot_be_read_fails_the_generation(comment):
    with pytest.raises(config_reference.CommentError):
        config_reference.reference(compiled(comment))


@pytest.mark.parametrize(("default", "read"), [("7", {"value": 7}), ("as it comes", {"text": "as it comes"})])
def test_facts_are_read_by_type(default, read):
    comment = f"A size,\n of two.\n Default: {default}\n Minimum: 1"
    messages = json.loads(config_reference.reference(compiled(comment)))["messages"]
    [field] = [field for message in messages.values() for field in message["fields"]]
    assert (field["about"], field["default"], field["minimum"]) == ("A size, of two.", read, 1)
