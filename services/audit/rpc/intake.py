"""Checks an entry before it is queued: sizes, ids, and that its sections are canonical JSON (RFC 8785)."""

from __future__ import annotations

import json

import rfc8785
from tenantry.audit.v1 import entry_pb2

from services.audit.logs.tenant_log import NewEntry
from services.audit.proofs.entry import ID_BYTES, NO_ID, EntryKind
from services.common.canonical_json import canonical_json
from services.common.errors import FieldViolation, InvalidArgumentError

MAX_META_BYTES = 64 << 10
MAX_CONTENT_BYTES = 1 << 20
MAX_TENANT_UID_CHARACTERS = 64
MAX_KEY_ID_CHARACTERS = 256
_OUTCOMES = {entry_pb2.ENTRY_KIND_OUTCOME, entry_pb2.ENTRY_KIND_ADMIN_OUTCOME}
_SERVICE_ONLY = {EntryKind.OUTCOME_UNKNOWN, EntryKind.DEK_OPEN, EntryKind.REVIEW, EntryKind.LOG_OPENED}
_WRITERS_KINDS = {kind.value for kind in EntryKind} - {kind.value for kind in _SERVICE_ONLY}


def is_canonical(data: bytes) -> bool:
    """Whether bytes are a JSON object in canonical form (RFC 8785)."""
    try:
        document = json.loads(data)
        return isinstance(document, dict) and canonical_json(document) == data
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        return False


def parse_entry(message: entry_pb2.AppendEntry, session_id: bytes = NO_ID, writer: str = "") -> NewEntry:
    """Check a writer's entry and return it as the logs take it.

    Args:
        message: the entry as it was sent.
        session_id: 16 bytes, of the session that sent it.
        writer: the writer's name.

    Raises:
        InvalidArgumentError: names every wrong field.
    """
    wrong: list[FieldViolation] = []
    if message.sequence == 0:
        wrong.append(FieldViolation("sequence", "counts up from 1"))
    if not 0 < len(message.tenant_uid) <= MAX_TENANT_UID_CHARACTERS or not message.tenant_uid.isprintable():
        said = f"has to have 1 to {MAX_TENANT_UID_CHARACTERS} characters, all of them printable"
        wrong.append(FieldViolation("tenant_uid", said))
    if len(message.record_id) != ID_BYTES or message.record_id == NO_ID:
        said = f"has {len(message.record_id)} bytes; {ID_BYTES} are needed, and not all zeros"
        wrong.append(FieldViolation("record_id", said))
    if len(message.key_id) > MAX_KEY_ID_CHARACTERS or not message.key_id.isprintable():
        said = f"has to have at most {MAX_KEY_ID_CHARACTERS} characters, all of them printable"
        wrong.append(FieldViolation("key_id", said))
    if message.kind not in _WRITERS_KINDS:
        wrong.append(FieldViolation("kind", f"{message.kind} is not a kind that writers append"))
    if len(message.admit_record_id) != (ID_BYTES if message.kind in _OUTCOMES else 0):
        said = f"is for outcomes, which have to name what they are of in {ID_BYTES} bytes"
        wrong.append(FieldViolation("admit_record_id", said))
    sections = (
        ("meta_json", message.meta_json, MAX_META_BYTES),
        ("prompt_json", message.prompt_json, MAX_CONTENT_BYTES),
        ("answer_json", message.answer_json, MAX_CONTENT_BYTES),
    )
    for field, data, limit in sections:
        if len(data) > limit:
            wrong.append(FieldViolation(field, f"has {len(data)} bytes, more than {limit}"))
        elif (data or field == "meta_json") and not is_canonical(data):
            wrong.append(FieldViolation(field, "is not a JSON object in canonical form (RFC 8785)"))
    if wrong:
        raise InvalidArgumentError(wrong)
    return NewEntry(
        message.tenant_uid,
        message.record_id,
        EntryKind(message.kind),
        (message.meta_json, message.prompt_json or None, message.answer_json or None),
        message.admit_record_id or NO_ID,
        message.key_id,
        session_id,
        writer,
    )
