"""Readiness by named components, published as standard gRPC health.

A server is SERVING when every component is ready. Components are named before the start, so it starts NOT_SERVING.
"""

from __future__ import annotations

from collections.abc import Iterable

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio


class HealthBoard:
    """The components of one process, each ready or not."""

    def __init__(self, components: Iterable[str]) -> None:
        self._ready = dict.fromkeys(components, False)
        self.servicer = health_aio.HealthServicer()

    @property
    def ready(self) -> bool:
        """Whether every component is ready."""
        return all(self._ready.values())

    def waiting_for(self) -> list[str]:
        """The components that are not ready."""
        return [component for component, ready in self._ready.items() if not ready]

    async def set(self, component: str, ready: bool) -> None:
        """Set whether a component is ready.

        Raises:
            KeyError: the component was not named at the start.
        """
        if component not in self._ready:
            raise KeyError(component)
        self._ready[component] = ready
        await self.publish()

    async def publish(self) -> None:
        """Publish the overall state, under the empty service name that probes use."""
        serving = health_pb2.HealthCheckResponse.ServingStatus.SERVING
        not_serving = health_pb2.HealthCheckResponse.ServingStatus.NOT_SERVING
        await self.servicer.set("", serving if self.ready else not_serving)
