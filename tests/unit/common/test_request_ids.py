from __future__ import annotations

import contextvars
import uuid

import pytest

from services.common.request_ids import current_request_id, request_id_of, set_request_id

ENVOYS = "6f1c0d9e-7a52-9b3e-8f6b-0a1b2c3d4e5f"
"""With Envoy's trace sampling in the digit of the version."""


def is_uuid(text: str) -> bool:
    return str(uuid.UUID(text)) == text


@pytest.mark.parametrize("brought", [ENVOYS, ENVOYS.upper()])
def test_the_edges_id_is_taken_as_it_is(brought):
    assert request_id_of([("authorization", "x"), ("x-request-id", brought)]) == brought


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("x-request-id", "")],
        [("x-request-id", "1; DROP")],
        [("x-request-id", ENVOYS + "\n")],
        [("x-request-id", ENVOYS.replace("-", ""))],
        [("x-request-id", ENVOYS.encode())],
        [("x-request-id", ENVOYS)] * 2,
    ],
)
def test_what_is_not_one_uuid_is_replaced(metadata):
    first, second = request_id_of(metadata), request_id_of(metadata)
    assert is_uuid(first)
    assert first not in {second, ENVOYS}


def test_an_id_belongs_to_its_call_only():
    call = contextvars.copy_context()
    call.run(set_request_id, ENVOYS)
    assert call.run(current_request_id) == ENVOYS
    assert is_uuid(current_request_id())
    assert current_request_id() != current_request_id()
