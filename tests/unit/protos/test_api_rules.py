"""The contract keeps its own rules: comments, names, field behaviour, paging, dry runs (AIP-133 to 158, 203, 231).

Checked on descriptors compiled here from protos/, with their source comments.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from google.api import field_behavior_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

PROTOS = Path(__file__).parents[3] / "protos"
# The contract we own; other protos are somebody else's wire format.
OWN = ("tenantry/inference/", "tenantry/config/", "tenantry/audit/")
# Made by a service and handed back to it as it was: its holder fills nothing.
HANDED_BACK = {".tenantry.audit.v1.Receipt"}
# What an operator changes. Revoking and registering are changes too.
MUTATIONS = (
    "Create", "Update", "Revoke", "Register", "Suspend", "Resume", "Delete", "Rollback",
)  # fmt: skip
# What `tenantry explain` reads besides: lines at the end of a comment (scripts/config_reference.py).
FACTS = re.compile(r"(^ ?[A-Z][a-z]+: [^\n]+(\n|\Z))+\Z", re.MULTILINE)
UPPER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@cache
def descriptors() -> tuple[FileDescriptorProto, ...]:
    includes = [
        PROTOS,
        metadata.distribution("googleapis-common-protos").locate_file(""),
        metadata.distribution("grpcio-tools").locate_file("grpc_tools/_proto"),
    ]
    sources = [
        str(path.relative_to(PROTOS))
        for path in sorted(PROTOS.rglob("*.proto"))
        if str(path.relative_to(PROTOS)).startswith(OWN)
    ]
    with TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        arguments = [*(f"-I{include}" for include in includes), f"--descriptor_set_out={out}"]
        protoc = [sys.executable, "-m", "grpc_tools.protoc", "--include_source_info"]
        subprocess.run([*protoc, *arguments, *sources], check=True, timeout=60)
        files = FileDescriptorSet.FromString(out.read_bytes()).file
    assert files
    return tuple(files)


def messages() -> dict[str, DescriptorProto]:
    return {
        f".{file.package}.{message.name}": message for file in descriptors() for message in file.message_type
    }


def enums() -> Iterator[EnumDescriptorProto]:
    for file in descriptors():
        yield from file.enum_type
        for message in file.message_type:
            yield from message.enum_type


def methods() -> list[MethodDescriptorProto]:
    return [method for file in descriptors() for service in file.service for method in service.method]


def reachable(start: set[str]) -> dict[str, DescriptorProto]:
    known, found, waiting = messages(), dict[str, DescriptorProto](), list(start)
    while waiting:
        name = waiting.pop()
        if name in known and name not in found:
            found[name] = known[name]
            waiting += [field.type_name for field in known[name].field]
    return found


def is_oneof_member(field: FieldDescriptorProto) -> bool:
    return field.HasField("oneof_index") and not field.proto3_optional


def snake_upper(name: str) -> str:
    return UPPER.sub("_", name).upper()


def paths(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Every element that has to be explained: its path in the source info, and its name."""
    for m, message in enumerate(file.message_type):
        yield (4, m), message.name
        yield from (((4, m, 2, f), f"{message.name}.{field.name}") for f, field in enumerate(message.field))
        for o, oneof in enumerate(message.oneof_decl):
            if not oneof.name.startswith("_"):
                yield (4, m, 8, o), f"{message.name}.{oneof.name}"
        assert not message.enum_type
        assert all(nested.options.map_entry for nested in message.nested_type), "messages are not nested"
    for e, enum in enumerate(file.enum_type):
        yield (5, e), enum.name
        yield from (((5, e, 2, v), value.name) for v, value in enumerate(enum.value))
    for s, service in enumerate(file.service):
        yield (6, s), service.name
        yield from (((6, s, 2, r), method.name) for r, method in enumerate(service.method))


@pytest.mark.parametrize("file", descriptors(), ids=lambda file: file.name)
def test_everything_is_explained_in_sentences(file):
    comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    for path, name in paths(file):
        comment = FACTS.sub("", comments.get(path, "")).strip()
        assert comment, f"{name} has no comment"
        assert comment.endswith((".", ":")), f"{name}'s comment is not a sentence: {comment}"


@pytest.mark.parametrize("file", descriptors(), ids=lambda file: file.name)
def test_packages_are_directories_and_carry_a_version(file):
    assert file.package == str(Path(file.name).parent).replace("/", ".")
    assert re.fullmatch(r"tenantry\.[a-z]+\.v\d+", file.package)
    assert file.syntax == "proto3"
    assert re.fullmatch(r"[a-z0-9_]+\.proto", Path(file.name).name)
    if file.service:
        assert [f"{snake_upper(service.name).lower()}.proto" for service in file.service] == [
            Path(file.name).name
        ]


def test_enums_start_unspecified_and_values_carry_the_enum_name():
    for enum in enums():
        prefix = snake_upper(enum.name)
        assert enum.value[0].name == f"{prefix}_UNSPECIFIED", enum.name
        assert enum.value[0].number == 0
        assert all(value.name.startswith(f"{prefix}_") for value in enum.value), enum.name


def test_every_field_a_caller_fills_says_whether_it_must():
    asked = reachable({method.input_type for method in methods()})
    for name in asked.keys() - HANDED_BACK:
        for field in asked[name].field:
            behaviours = field.options.Extensions[field_behavior_pb2.field_behavior]
            if not is_oneof_member(field):
                assert behaviours, f"{name}.{field.name} has no field_behavior"


def test_only_output_is_never_required():
    for name, message in messages().items():
        for field in message.field:
            behaviours = set(field.options.Extensions[field_behavior_pb2.field_behavior])
            exclusive = {
                field_behavior_pb2.REQUIRED,
                field_behavior_pb2.OPTIONAL,
                field_behavior_pb2.OUTPUT_ONLY,
            }
            assert len(behaviours & exclusive) <= 1, f"{name}.{field.name} contradicts itself"


def test_requests_and_responses_are_named_after_their_method():
    shared = {"StreamGenerate": "GenerateRequest"}
    for method in methods():
        assert method.input_type.endswith(f".{shared.get(method.name, f'{method.name}Request')}"), method.name
        response = method.output_type.rsplit(".", 1)[-1]
        if response.endswith("Response"):
            assert response == f"{method.name}Response"


def test_lists_come_in_pages():
    lists = [method for method in methods() if method.name.startswith("List")]
    assert lists
    for method in lists:
        request, response = messages()[method.input_type], messages()[method.output_type]
        asked = {field.name: field.type for field in request.field}
        assert asked.get("page_size") == FieldDescriptorProto.TYPE_INT32, method.name
        assert asked.get("page_token") == FieldDescriptorProto.TYPE_STRING, method.name
        repeated = [field for field in response.field if field.label == FieldDescriptorProto.LABEL_REPEATED]
        assert [field.number for field in repeated] == [1], method.name
        assert "next_page_token" in {field.name for field in response.field}, method.name


def test_every_change_of_config_can_be_tried_first():
    [service] = [s for f in descriptors() for s in f.service if s.name == "ConfigAdminService"]
    changes = [method for method in service.method if method.name.startswith(MUTATIONS)]
    assert len(changes) >= 7
    for method in changes:
        fields = {
            field.name for message in reachable({method.input_type}).values() for field in message.field
        }
        assert "validate_only" in fields, method.name
    reads = {method.name for method in service.method} - {method.name for method in changes}
    assert all(name.startswith(("Get", "List", "Diff", "WaitFor")) for name in reads), (
        "a change without validate_only"
    )


def test_updates_name_their_fields_and_guard_against_lost_updates():
    for method in methods():
        if method.name.startswith("Update"):
            fields = {field.name: field.type_name for field in messages()[method.input_type].field}
            assert fields["update_mask"] == ".google.protobuf.FieldMask", method.name
            assert "etag" in {field.name for field in messages()[method.output_type].field}, method.name


def test_resources_have_a_name_that_identifies_them():
    for method in methods():
        if method.name.startswith("Get"):
            asked = messages()[method.input_type].field[0]
            assert asked.name == "name", method.name
            name = messages()[method.output_type].field[0]
            assert name.name == "name", method.name
            behaviours = name.options.Extensions[field_behavior_pb2.field_behavior]
            assert field_behavior_pb2.IDENTIFIER in behaviours, method.name


def test_times_and_durations_have_types_and_not_units_in_integers():
    types = {"_time": ".google.protobuf.Timestamp", "_timeout": ".google.protobuf.Duration"}
    for name, message in messages().items():
        for field in message.field:
            for suffix, kind in types.items():
                if field.name.endswith(suffix):
                    assert field.type_name == kind, f"{name}.{field.name}"
