"""The operator's calls about routers: list them, and wait until they have applied a change."""

from __future__ import annotations

import grpc
from tenantry.config.v1.config_admin_service_pb2 import (
    ListRoutersRequest,
    WaitForPropagationRequest,
    WaitForPropagationResponse,
)
from tenantry.config.v1.config_admin_service_pb2_grpc import ConfigAdminServiceStub
from tenantry.config.v1.router_status_pb2 import RouterStatus

from services.cli.clients.listener import Caller, bearer
from services.cli.clients.paging import collect_pages

CALL_TIMEOUT_SECONDS = 10.0


class RoutersClient:
    """The routers' calls of `ConfigAdminService`; reached through `AdminClient.routers`."""

    def __init__(self, channel: grpc.aio.Channel, address: str, key: str) -> None:
        self._stub = ConfigAdminServiceStub(channel)
        self._caller = Caller(address, bearer(key))

    async def list_routers(self) -> list[RouterStatus]:
        """Every router the config service knows, by name."""

        async def page(token: str) -> tuple[list[RouterStatus], str]:
            response = await self._caller.unary(
                self._stub.ListRouters, ListRoutersRequest(page_token=token), CALL_TIMEOUT_SECONDS
            )
            return list(response.routers), response.next_page_token

        return await collect_pages(page)

    async def wait_for(self, revision: int, timeout_seconds: float) -> WaitForPropagationResponse:
        """Wait until every live router has applied a revision; the answer names those that did not in time."""
        return await self._caller.unary(
            self._stub.WaitForPropagation, WaitForPropagationRequest(revision=revision), timeout_seconds
        )
