"""What a serialised request holds is counted before an object is made of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import InvalidArgumentError
from services.router.request import unparsed, wire_bounds
from services.router.request.unparsed import MAX_FIELDS, RequestParser, Unparsed
from services.router.request.wire_bounds import MalformedError, TooManyFieldsError, check_fields_of
from tests.fakes.mutants import without

DESCRIPTOR = pb.GenerateRequest.DESCRIPTOR


def conversation(messages: int, parts: int = 1, text: str = "x") -> pb.GenerateRequest:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)] * parts)
    return pb.GenerateRequest(conversation=pb.Conversation(messages=[message] * messages))


def fields_of(message) -> int:
    """The count by protobuf's own objects."""
    total = 0
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        for one in values:
            total += 1 + (fields_of(one) if field.message_type is not None else 0)
    return total


@given(st.integers(1, 30), st.integers(1, 10), st.integers(-5, 5), st.text(max_size=5))
def test_the_count_is_that_of_the_objects(messages, parts, priority, text):
    request = conversation(messages, parts, text)
    request.parameters.seed = abs(priority)
    request.correlation_id = text
    assert check_fields_of(request.SerializeToString(), DESCRIPTOR, 10_000) == fields_of(request)


def test_no_more_is_looked_at_than_is_allowed():
    # Two bytes each: what would be two million objects.
    request = conversation(1, 100).SerializeToString()
    check_fields_of(request, DESCRIPTOR, 203)
    with pytest.raises(TooManyFieldsError):
        check_fields_of(request, DESCRIPTOR, 202)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_or_refused(data):
    try:
        check_fields_of(data, DESCRIPTOR, 50)
    except (MalformedError, TooManyFieldsError):
        return
    # Bytes that end within a field never pass.
    assert wire_bounds.check_fields_of(data, DESCRIPTOR, 50) <= 50


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05x", b"\x08\xff", b"\x0b", b"\xff" * 11, b"\x09abc", b"\x0d\x01"]
)
def test_bytes_that_end_within_a_field_are_no_message(data):
    with pytest.raises(MalformedError):
        check_fields_of(data, DESCRIPTOR, 50)


class Kind:
    """A request's type that says when it was asked to make objects."""

    DESCRIPTOR = DESCRIPTOR
    made = 0

    @classmethod
    def FromString(cls, data: bytes) -> pb.GenerateRequest:
        cls.made += 1
        return pb.GenerateRequest.FromString(data)


async def objects_made_of_many_fields() -> int:
    Kind.made = 0
    bomb = pb.GenerateRequest(
        conversation=pb.Conversation(messages=[pb.Message(content=[pb.ContentPart()] * (MAX_FIELDS + 1))])
    )
    kind: Any = Kind
    parser = RequestParser()
    with suppress(InvalidArgumentError):
        await parser.parse("t", Unparsed(bomb.SerializeToString(), kind))
    parser.close()
    return Kind.made


async def test_many_small_fields_become_no_objects():
    assert await objects_made_of_many_fields() == 0


async def test_that_test_notices_what_is_parsed_uncounted(monkeypatch):
    monkeypatch.setattr(unparsed, "_parse", without(unparsed, "counted-before-parsed")._parse)
    assert await objects_made_of_many_fields() == 1


async def test_the_largest_request_within_the_contract_is_parsed():
    parser = RequestParser()
    largest = conversation(4096, 2)
    assert await parser.parse("t", Unparsed(largest.SerializeToString(), pb.GenerateRequest)) == largest
    parser.close()
