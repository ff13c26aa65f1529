"""Implements grpc.health.v1: whether this server and its services serve.

The library's servicer writes to watchers while it holds a lock. So a watcher that read nothing kept
all others from getting changes, and the server from draining.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polyhead_server.codec.message_format import parse_question
from polyhead_server.errors import ModelNotFoundError, quoted
from polyhead_server.grpc_stubs.health_pb2 import HealthCheckRequest, HealthCheckResponse
from polyhead_server.rpc.handlers import service_handler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import grpc

    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.rpc.observer import CallObserver

__all__ = ["HEALTH_SERVICE_NAME", "Health"]

HEALTH_SERVICE_NAME = "grpc.health.v1.Health"

MODELS_NAME = "polyhead.models"
"""Name of a service that does not exist. Its health reports whether every model is served from its
current files."""

_MAX_BYTES = 4 << 10
"""Longest request. A watch keeps its request until it ends, and there may be thousands."""


class Health:
    """Serving status of the whole server and of each service."""

    def __init__(self, *services: str, serves_all_models: Callable[[], bool]) -> None:
        """``serves_all_models``: whether every model is served as its files are."""
        self._is_serving = False
        self._names = ("", *services, MODELS_NAME)
        self._serves_all_models = serves_all_models
        self._changed = asyncio.Event()
        """Set, and replaced by another, when the status changes or watches end."""
        self._is_ending = False

    def handler(self, observer: CallObserver) -> grpc.GenericRpcHandler:
        """Return the service as a gRPC server registers it."""
        return service_handler(
            HEALTH_SERVICE_NAME, {"Check": self.check}, {"Watch": self.watch}, observer=observer
        )

    def report(self, *, is_serving: bool) -> None:
        """Set every status."""
        self._is_serving = is_serving
        self._wake_watches()

    def note_models(self) -> None:
        """Send watchers whether every model is served from its current files."""
        self._wake_watches()

    def end_watches(self) -> None:
        """End every Watch, because clients never end them and draining would wait for them."""
        self._is_ending = True
        self._wake_watches()

    async def check(self, data: bytes, _: CallContext) -> bytes:
        """Answer whether a service serves."""
        service = _parse(data).service
        if service not in self._names:
            raise ModelNotFoundError(
                f"this server has no service {quoted(service)}", "SERVICE_NOT_FOUND"
            )
        return self._response(service).SerializeToString()

    async def watch(self, data: bytes, _: CallContext) -> AsyncGenerator[bytes, None]:
        """Send each change of a service's status, until draining begins."""
        service = _parse(data).service
        sent = None
        while True:
            changed, response = self._changed, self._response(service).SerializeToString()
            if response != sent:
                sent = response
                yield response
            elif self._is_ending:
                return
            else:
                await changed.wait()

    def _response(self, service: str) -> HealthCheckResponse:
        if service not in self._names:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        if self._is_serving and (service != MODELS_NAME or self._serves_all_models()):
            return HealthCheckResponse(status=HealthCheckResponse.SERVING)
        return HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)

    def _wake_watches(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _parse(data: bytes) -> HealthCheckRequest:
    return parse_question(HealthCheckRequest, data, _MAX_BYTES)
