"""Refused entries of writers name every wrong field."""

from __future__ import annotations

import pytest
from tenantry.audit.v1 import entry_pb2

from services.audit.rpc.intake import MAX_CONTENT_BYTES, MAX_META_BYTES, parse_entry
from services.common.errors import InvalidArgumentError
from tests.fakes.audit_service import append_entry

ADMIT, OUTCOME = entry_pb2.ENTRY_KIND_ADMIT, entry_pb2.ENTRY_KIND_OUTCOME


def appended(**fields) -> entry_pb2.AppendEntry:
    return append_entry(fields.pop("sequence", 1), fields.pop("tenant_uid", "a"), **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": OUTCOME, "admit_record_id": b"a" * 16},
        {"tenant_uid": "ü" * 64, "key_id": "k" * 256},
        {"prompt_json": b"", "answer_json": b"{}"},
    ],
    ids=str,
)
def test_whole_entries_pass(fields):
    assert parse_entry(appended(**fields)).record_id


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("tenant_uid", {"tenant_uid": ""}),
        ("tenant_uid", {"tenant_uid": "a" * 65}),
        # Keys are bound to `tenant_uid ‖ 00`: a zero in it could make one place of two.
        ("tenant_uid", {"tenant_uid": "a\x00b"}),
        ("tenant_uid", {"tenant_uid": "a\n"}),
        ("sequence", {"sequence": 0}),
        ("record_id", {"record_id": b""}),
        ("record_id", {"record_id": b"r" * 15}),
        ("record_id", {"record_id": b"r" * 17}),
        ("record_id", {"record_id": bytes(16)}),
        ("kind", {"kind": 0}),
        ("kind", {"kind": 99}),
        ("key_id", {"key_id": "k" * 257}),
        ("key_id", {"key_id": "k\x7f"}),
        ("admit_record_id", {"kind": OUTCOME}),
        ("admit_record_id", {"kind": OUTCOME, "admit_record_id": b"a" * 15}),
        ("admit_record_id", {"kind": ADMIT, "admit_record_id": b"a" * 16}),
        ("admit_record_id", {"kind": ADMIT, "admit_record_id": b"a" * 3}),
        ("meta_json", {"meta_json": b""}),
        ("meta_json", {"meta_json": b'{"a": 1}'}),
        ("meta_json", {"meta_json": b'{"a":"' + b"x" * MAX_META_BYTES + b'"}'}),
        ("prompt_json", {"prompt_json": b"[]"}),
        ("prompt_json", {"prompt_json": b'{"a":9007199254740993}'}),
        ("prompt_json", {"prompt_json": b'{"a":"\\ud800"}'}),
        ("prompt_json", {"prompt_json": b'{"a":1,"a":2}'}),
        ("prompt_json", {"prompt_json": b'{"b":1,"a":2}'}),
        ("prompt_json", {"prompt_json": b'{"a":1.0}'}),
        ("prompt_json", {"prompt_json": b'{"a":NaN}'}),
        ("prompt_json", {"prompt_json": b"{" * 5000}),
        ("answer_json", {"answer_json": b'{"a":"' + b"x" * MAX_CONTENT_BYTES + b'"}'}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_field_is_named_and_no_other(field, fields):
    with pytest.raises(InvalidArgumentError) as refused:
        parse_entry(appended(**fields))
    assert {violation.field for violation in refused.value.violations} == {field}


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(InvalidArgumentError) as refused:
        parse_entry(entry_pb2.AppendEntry(sequence=1, admit_record_id=b"a"))
    assert {violation.field for violation in refused.value.violations} == {
        "tenant_uid",
        "record_id",
        "kind",
        "admit_record_id",
        "meta_json",
    }
