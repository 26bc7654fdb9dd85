"""Asks a Triton server whether it serves a model."""

from __future__ import annotations

import grpc

from services.router.backends.channels import EndpointChannels
from services.router.backends.kserve_stubs import ModelReadyRequest, ServerReadyRequest


class TritonProbe:
    """Probes endpoints; see `Probe`."""

    def __init__(self, channels: EndpointChannels) -> None:
        self._channels = channels

    async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
        """Whether server and model are ready.

        Raises:
            TimeoutError: no answer in time: busy or hung, but not known to be gone.
        """
        stub = self._channels.stub(target)
        try:
            server = await stub.ServerReady(ServerReadyRequest(), timeout=timeout_seconds)
            if not server.ready:
                return False
            model = await stub.ModelReady(ModelReadyRequest(name=server_model), timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from None
            return False
        return bool(model.ready)
