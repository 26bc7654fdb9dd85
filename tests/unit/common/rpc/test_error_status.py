from __future__ import annotations

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common import errors
from services.common.errors import FieldViolation, InvalidArgumentError, QuotaViolation, Reason
from services.common.rpc.channel import open_channel
from services.common.rpc.health import HealthBoard
from services.common.rpc.server import build_server
from services.common.rpc.status import from_rpc_error, from_status, to_status
from services.common.rpc.tls import InsecureTargetError

EVERY_ERROR = [
    InvalidArgumentError([FieldViolation("a.b", "is 7, more than 5"), FieldViolation("c", "is missing")]),
    errors.UnauthenticatedError(),
    errors.PermissionDeniedError("no"),
    errors.NotFoundError("no such model", reason=Reason.MODEL_NOT_FOUND),
    errors.AlreadyExistsError("taken"),
    errors.AbortedError("changed"),
    errors.FailedPreconditionError("suspended", reason=Reason.TENANT_SUSPENDED),
    errors.ResourceExhaustedError(
        "slow", violations=[QuotaViolation("tenants/a", "10/s")], retry_after_seconds=0.5
    ),
    errors.UnavailableError("down", retry_after_seconds=2.0),
    errors.DeadlineExceededError("late"),
    errors.InternalError(),
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_round_trip_keeps_what_a_program_needs(error):
    status = to_status(error)
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    assert len({detail.type_url for detail in status.details}) == len(status.details)
    again = from_status(status)
    assert type(again) is type(error)
    assert (again.reason, again.message, again.retry_after_seconds) == (
        error.reason,
        error.message,
        error.retry_after_seconds,
    )
    assert getattr(again, "violations", ()) == getattr(error, "violations", ())


def test_text_that_a_caller_sent_is_escaped_wherever_it_stands():
    hostile = "a\x1b]0;b\u202e\ud800\n"
    shown = r"a\x1b]0;b\u202e\ud800\x0a"
    wrong = from_status(to_status(InvalidArgumentError([FieldViolation(hostile, f"is {hostile}")])))
    assert wrong.message == f"{shown}: is {shown}"
    assert wrong.violations == (FieldViolation(shown, f"is {shown}"),)
    slow = errors.ResourceExhaustedError(
        hostile, violations=[QuotaViolation(hostile, hostile)], metadata={"needed": hostile}
    )
    again = from_status(to_status(slow))
    assert (again.message, again.metadata) == (shown, {"needed": shown})
    assert again.violations == (QuotaViolation(shown, shown),)


def test_the_request_id_travels_as_request_info_and_only_where_there_is_one():
    error = errors.DeadlineExceededError("late")
    assert not from_status(to_status(error)).request_id
    error.request_id = "7f3a"
    status = to_status(error)
    [info] = [detail for detail in status.details if detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR)]
    assert info.value == error_details_pb2.RequestInfo(request_id="7f3a").SerializeToString()
    assert from_status(status).request_id == "7f3a"


@pytest.mark.parametrize("place", ["initial", "trailing"])
def test_an_answer_without_details_is_found_by_the_edges_request_id(place):
    carried, nothing = grpc.aio.Metadata(("x-request-id", "7f3a" + "x" * 200)), grpc.aio.Metadata()
    initial, trailing = (carried, nothing) if place == "initial" else (nothing, carried)
    refused = grpc.aio.AioRpcError(grpc.StatusCode.UNAUTHENTICATED, initial, trailing, "Jwt is missing")
    found = from_rpc_error(refused).request_id
    assert found.startswith("7f3a")
    assert len(found) == 128


class Failing(health_pb2_grpc.HealthServicer):
    """Health's arities are all we need: one unary, one stream."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.closed = asyncio.Event()

    async def Check(self, request, context):
        raise self.error

    async def Watch(self, request, context):
        try:
            yield health_pb2.HealthCheckResponse(status=1)
            if request.service == "forever":
                await asyncio.Event().wait()
            raise self.error
        finally:
            self.closed.set()


@pytest.fixture
async def serve(tmp_path):
    started = []

    async def start(servicer):
        target = f"unix:{tmp_path}/s.sock"
        board = HealthBoard([])
        board.servicer = servicer
        server = build_server(
            listen=[target],
            register=lambda _server: None,
            service_names=[],
            health=board,
            max_message_bytes=1 << 20,
        )
        await server.start()
        channel = open_channel(target)
        started.append((server, channel))
        return health_pb2_grpc.HealthStub(channel)

    yield start
    for server, channel in started:
        await channel.close()
        await server.stop(0)


async def test_errors_of_unary_and_stream_reach_the_caller_typed(serve):
    stub = await serve(Failing(errors.UnavailableError("down", retry_after_seconds=2.0)))
    with pytest.raises(grpc.RpcError) as unary:
        await stub.Check(health_pb2.HealthCheckRequest())
    answers = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await answers.read()).status == 1
    with pytest.raises(grpc.RpcError) as stream:
        await answers.read()
    for caught in (unary, stream):
        error = from_rpc_error(caught.value)
        assert isinstance(error, errors.UnavailableError)
        assert error.retry_after_seconds == 2.0


async def test_unexpected_errors_say_nothing(serve, caplog):
    stub = await serve(Failing(ValueError("secret tenant text")))
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error"
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text + str(caught.value.trailing_metadata())


async def test_a_caller_that_leaves_closes_the_servicers_stream(serve):
    servicer = Failing(errors.InternalError())
    stub = await serve(servicer)
    call = stub.Watch(health_pb2.HealthCheckRequest(service="forever"))
    await call.read()
    call.cancel()
    await asyncio.wait_for(servicer.closed.wait(), 5)


@pytest.mark.parametrize("target", ["10.0.0.1:99", "router.internal:50051", "[2001:db8::1]:1"])
def test_a_target_that_leaves_the_host_needs_tls(target):
    with pytest.raises(InsecureTargetError, match="leaves this host"):
        open_channel(target)
