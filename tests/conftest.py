"""What all tests share."""

from __future__ import annotations

from grpc.aio import init_grpc_aio

# gRPC stops its poller with the last server or channel and starts it again with the next. Held open here, so that
# a server which a failing test leaves behind cannot make another test wait for that stop.
init_grpc_aio()
