"""What every fake behind the `tenantry` command shares: the keys it takes and how it refuses."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from services.common.errors import Error, UnauthenticatedError
from services.common.rpc.status import to_status

TENANT_KEY, OPERATOR_KEY, GRANT = "tenant-key", "operator-key", "grant"


def abort(context: grpc.ServicerContext, error: Error) -> NoReturn:
    """End the call as the services do."""
    context.abort_with_status(_grpc_status(error))
    raise AssertionError("abort returned")


def _grpc_status(error: Error) -> Any:
    return rpc_status.to_status(to_status(error))


def authenticate(context: grpc.ServicerContext, key: str) -> None:
    if ("authorization", f"Bearer {key}") not in context.invocation_metadata():
        abort(context, UnauthenticatedError())
