"""grpc.health.v1, with watches that do not delay draining."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse

if TYPE_CHECKING:
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest

__all__ = ["Health"]


class Health(health.aio.HealthServicer):
    """Serving status of the whole server and of each service."""

    def __init__(self, *services: str) -> None:
        super().__init__()
        self._names = ("", *services)
        self._draining = asyncio.Event()

    async def report(self, *, is_serving: bool) -> None:
        """Set every status."""
        status = HealthCheckResponse.SERVING if is_serving else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.set(name, status)

    def end_watches(self) -> None:
        """End every Watch, because clients never end them and draining would wait for them."""
        self._draining.set()

    async def Watch(  # noqa: N802 - the contract's name
        self,
        request: HealthCheckRequest,
        context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse],
    ) -> None:
        """Send a client each change of the status, until draining begins."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({watching, draining}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            draining.cancel()
        await asyncio.wait({watching})
