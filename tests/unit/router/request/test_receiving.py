"""Requests are counted before a parser makes objects of their pieces, and counting leaves the loop to others."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import InvalidArgumentError
from services.router.request import receiving
from services.router.request.receiving import Receiver
from services.router.request.wire_scan import Counted, UnreadableError, scan
from tests.fakes.mutants import without

EMPTY_PIECE = b"\x12\x00"
MEBIBYTE = 1 << 20
COUNTED = {1: Counted("outer", 3, "outers", {2: Counted("outer.inner", 4, "inners")})}


def field(number: int, data: bytes) -> bytes:
    """A field of bytes in the wire format."""
    length, size = b"", len(data)
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def pieces(count: int) -> bytes:
    """One message with so many empty pieces of content."""
    return field(2, field(1, EMPTY_PIECE * count))


async def refused(data: bytes | None, receiver: Receiver | None = None) -> str:
    with pytest.raises(InvalidArgumentError) as error:
        await (receiver or Receiver()).generate("t", data)
    (violation,) = error.value.violations
    return f"{violation.field}: {violation.description}"


def largest() -> pb.GenerateRequest:
    """As many pieces as the contract allows."""
    turns = [
        pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="ab"), pb.ContentPart(text="c")])
        for _ in range(4096)
    ]
    return pb.GenerateRequest(
        model="m",
        conversation=pb.Conversation(messages=turns),
        parameters=pb.SamplingParameters(stop_sequences=["x"] * 16, temperature=1.0, seed=2**64 - 1),
        client_metadata={f"k{number}": "v" for number in range(16)},
        correlation_id="c" * 128,
    )


@pytest.mark.parametrize(
    "request_",
    [
        pb.GenerateRequest(),
        pb.GenerateRequest(prompt="é" * (384 << 10)),
        largest(),
    ],
    ids=["empty", "most text", "most pieces"],
)
async def test_all_that_the_contract_allows_is_received(request_):
    assert await Receiver().generate("t", request_.SerializeToString()) == request_


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (pieces(500_000), "conversation.messages.content: more than 8192 pieces of content; at most 8192"),
        (field(2, b"\x0a\x00" * 4097), "conversation.messages: more than 4096 messages; at most 4096"),
        (field(8, b"") * 300_000, "client_metadata: more than 16 entries; at most 16"),
        (field(5, b"\x32\x00" * 1000), "parameters.stop_sequences: more than 16 stop sequences; at most 16"),
        # Joined by a parser: each has half of what is too much.
        (pieces(4097) * 2, "conversation.messages.content: more than 8192 pieces of content; at most 8192"),
        (b"\x60\x01" * 100_000, "request: more than 24832 fields; at most 24832"),
        (bytes(MEBIBYTE + 1), "request: 1048577 bytes; at most 1048576"),
        (b"\x63" * 2000, "request: is not a message that this method takes"),
        (b"\xff" * 9, "request: is not a message that this method takes"),
        (None, "request: is missing, or above 1310720 bytes"),
    ],
)
async def test_what_is_too_much_is_named_with_its_limit(data, text):
    assert await refused(data) == text


async def test_mutant_that_parses_at_once_takes_half_a_million_pieces():
    careless = without(receiving, "counts-first").Receiver()
    request = await careless.generate("t", pieces(500_000))
    assert len(request.conversation.messages[0].content) == 500_000


async def test_mutant_that_takes_any_size():
    careless = without(receiving, "size-first").Receiver()
    text = pb.GenerateRequest(prompt="x" * MEBIBYTE)
    assert (await careless.generate("t", text.SerializeToString())).prompt == text.prompt


def test_a_count_stops_at_its_limit_however_much_there_is():
    taken: list[None] = []
    with pytest.raises(InvalidArgumentError):
        taken.extend(scan(pieces(500_000), receiving._GENERATE, receiving._MAX_FIELDS))
    assert len(taken) == 16


@given(st.binary(max_size=64))
def test_any_bytes_are_counted_or_refused(data):
    with suppress(UnreadableError, InvalidArgumentError):
        assert len(list(scan(data, COUNTED, 40))) == 0


@given(st.lists(st.integers(0, 6), max_size=5))
def test_counts_are_taken_over_all_messages(inners):
    data = b"".join(field(1, field(2, b"x") * count) for count in inners)
    allowed = len(inners) <= 3 and sum(inners[:4]) <= 4
    if allowed:
        list(scan(data, COUNTED, 100))
    else:
        with pytest.raises(InvalidArgumentError):
            list(scan(data, COUNTED, 100))


async def slices_of(log: list[str], name: str, count: int, receiver: Receiver, tenant: str) -> None:
    def steps():
        for _ in range(count):
            log.append(name)
            yield

    await receiver._count(tenant, steps())


async def in_turn(receiver: Receiver) -> list[str]:
    log: list[str] = []
    await asyncio.gather(
        slices_of(log, "a1", 4, receiver, "a"),
        slices_of(log, "a2", 4, receiver, "a"),
        slices_of(log, "b", 4, receiver, "b"),
    )
    # The first slice of each is taken at once.
    return log[3:]


async def test_a_tenant_has_one_large_request_counted_at_a_time_and_tenants_take_turns():
    assert await in_turn(Receiver()) == ["a1", "b", "a1", "b", "a1", "b", "a2", "a2", "a2"]


async def test_mutant_without_turns_lets_a_tenant_count_twice_as_much():
    class Unlimited(dict):
        def setdefault(self, key, lock):
            return lock

    receiver = Receiver()
    receiver._turns = Unlimited()
    assert (await in_turn(receiver))[:3] == ["a1", "a2", "b"]


async def test_one_that_leaves_while_it_waits_for_its_turn_leaves_it_to_others():
    receiver, log = Receiver(), []
    first = asyncio.create_task(slices_of(log, "a1", 50, receiver, "a"))
    second = asyncio.create_task(slices_of(log, "a2", 3, receiver, "a"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    await asyncio.wait_for(second, 10)
    assert log.count("a2") == 3


async def test_a_list_of_models_is_asked_for_in_few_bytes():
    receiver = Receiver()
    assert await receiver.listing("t", b"") == pb.ListModelsRequest()
    with pytest.raises(InvalidArgumentError):
        await receiver.listing("t", bytes((16 << 10) + 1))
