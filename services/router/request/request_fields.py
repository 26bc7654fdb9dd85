"""Checks a request's fields against the contract, before anything is done for the caller.

The first wrong fields are named together; no description holds the caller's text. This runs on the event loop, so
every loop is bounded by what the contract allows, not by what a request holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import FieldViolation, InvalidArgumentError

ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}
"""Roles by their names in chat templates."""

MAX_MESSAGES = 4096
MAX_PARTS = 8192
"""Pieces of content, over all messages."""
MAX_STOP_SEQUENCES = 16
_MAX_STOP_CHARACTERS = 256
_MAX_CORRELATION_CHARACTERS = 128
MAX_METADATA_ENTRIES = 16
_MAX_METADATA_KEY_CHARACTERS = 64
_MAX_METADATA_VALUE_CHARACTERS = 512
# A status travels as metadata, and callers' libraries take 8 KiB of that.
_MAX_VIOLATIONS = 20


def text_bytes(request: pb.GenerateRequest) -> int:
    """UTF-8 bytes of the text a caller sent to be answered."""
    if request.WhichOneof("input") == "prompt":
        return len(request.prompt.encode())
    return sum(
        len(part.text.encode()) for message in request.conversation.messages for part in message.content
    )


def check_fields(request: pb.GenerateRequest) -> None:
    """Refuse a request that breaks the contract.

    Raises:
        InvalidArgumentError: names the wrong fields, at most 20 of them.
    """
    wrong: list[FieldViolation] = []
    kind = request.WhichOneof("input")
    if kind is None:
        wrong.append(FieldViolation("conversation", "a conversation or a prompt is required"))
    elif kind == "prompt" and not request.prompt:
        wrong.append(FieldViolation("prompt", "must not be empty"))
    elif kind == "conversation":
        wrong.extend(_conversation_violations(request.conversation))
    wrong.extend(_parameter_violations(request.parameters))
    if request.priority not in pb.Priority.values():
        wrong.append(FieldViolation("priority", "not a priority"))
    if len(request.correlation_id) > _MAX_CORRELATION_CHARACTERS:
        wrong.append(
            _too_many(
                "correlation_id", len(request.correlation_id), _MAX_CORRELATION_CHARACTERS, "characters"
            )
        )
    wrong.extend(_metadata_violations(request.client_metadata))
    if wrong:
        raise InvalidArgumentError(wrong[:_MAX_VIOLATIONS])


def _conversation_violations(conversation: pb.Conversation) -> list[FieldViolation]:
    if not conversation.messages:
        return [FieldViolation("conversation.messages", "at least one message is required")]
    if len(conversation.messages) > MAX_MESSAGES:
        return [_too_many("conversation.messages", len(conversation.messages), MAX_MESSAGES, "messages")]
    parts = sum(len(message.content) for message in conversation.messages)
    if parts > MAX_PARTS:
        return [_too_many("conversation.messages", parts, MAX_PARTS, "pieces of content")]
    wrong = []
    for place, message in enumerate(conversation.messages):
        if message.role not in ROLES:
            wrong.append(FieldViolation(f"conversation.messages[{place}].role", "not a role"))
        if not message.content:
            wrong.append(FieldViolation(f"conversation.messages[{place}].content", "must not be empty"))
        wrong.extend(
            FieldViolation(f"conversation.messages[{place}].content[{part}]", "not a kind of content")
            for part, content in enumerate(message.content)
            if content.WhichOneof("part") is None
        )
    return wrong


def _parameter_violations(given: pb.SamplingParameters) -> list[FieldViolation]:
    wrong = []
    if given.HasField("max_output_tokens") and given.max_output_tokens < 1:
        wrong.append(FieldViolation("parameters.max_output_tokens", "must be at least 1"))
    # A NaN fails every comparison, so these compare with what is right.
    if given.HasField("temperature") and not 0.0 <= given.temperature <= 2.0:
        wrong.append(FieldViolation("parameters.temperature", "must be from 0 to 2"))
    if given.HasField("top_p") and not 0.0 < given.top_p <= 1.0:
        wrong.append(FieldViolation("parameters.top_p", "must be above 0 and at most 1"))
    if given.HasField("top_k") and given.top_k < 0:
        wrong.append(FieldViolation("parameters.top_k", "must be at least 0"))
    wrong.extend(_stop_violations(given.stop_sequences))
    return wrong


def _stop_violations(sequences: Sequence[str]) -> list[FieldViolation]:
    path = "parameters.stop_sequences"
    if len(sequences) > MAX_STOP_SEQUENCES:
        return [_too_many(path, len(sequences), MAX_STOP_SEQUENCES, "stop sequences")]
    wrong = []
    for place, sequence in enumerate(sequences):
        field = f"{path}[{place}]"
        if not sequence:
            wrong.append(FieldViolation(field, "must not be empty"))
        elif len(sequence) > _MAX_STOP_CHARACTERS:
            wrong.append(_too_many(field, len(sequence), _MAX_STOP_CHARACTERS, "characters"))
    return wrong


def _metadata_violations(metadata: Mapping[str, str]) -> list[FieldViolation]:
    if len(metadata) > MAX_METADATA_ENTRIES:
        return [_too_many("client_metadata", len(metadata), MAX_METADATA_ENTRIES, "entries")]
    wrong = []
    if any(len(key) > _MAX_METADATA_KEY_CHARACTERS for key in metadata):
        wrong.append(
            FieldViolation(
                "client_metadata", f"a key has more than {_MAX_METADATA_KEY_CHARACTERS} characters"
            )
        )
    if any(len(value) > _MAX_METADATA_VALUE_CHARACTERS for value in metadata.values()):
        wrong.append(
            FieldViolation(
                "client_metadata", f"a value has more than {_MAX_METADATA_VALUE_CHARACTERS} characters"
            )
        )
    return wrong


def _too_many(field: str, actual: int, limit: int, unit: str) -> FieldViolation:
    return FieldViolation(field, f"{actual} {unit}; at most {limit}")
