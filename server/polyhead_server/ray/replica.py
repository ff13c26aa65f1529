"""A replica: polyhead's server, which gets its calls from Serve."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from polyhead_server.engine.subnormals import flush_subnormals
from polyhead_server.process import logs
from polyhead_server.process.app import App
from polyhead_server.ray.call import ReplicaCall
from polyhead_server.ray.calls import ReplicaCalls
from polyhead_server.ray.contracts import methods
from polyhead_server.ray.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from ray.serve.grpc_util import RayServegRPCContext

    from polyhead_server.ray.answer import Answer
    from polyhead_server.ray.contracts import Method

__all__ = ["Replica"]

_LOG = logging.getLogger("polyhead.app")


class Replica:
    """Serves the methods of all services; Serve calls each by its name."""

    async def __init__(self, arguments: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        """Load the models. ``arguments``: settings by name. Raises StartupError."""
        resources = ray.get_runtime_context().get_assigned_resources()
        settings = read_settings(arguments, resources)
        logs.configure(settings.log_format, settings.log_level)
        self._calls = ReplicaCalls()
        flush_subnormals()  # small requests run in this thread
        self._app = App(settings, owns_process=True, call_source=self._calls)
        fields = await self._app.start()
        del fields["address"]
        _LOG.info("serving", extra=fields)
        self._watching = asyncio.create_task(self._app.watch()) if settings.watch else None

    async def __del__(self) -> None:
        """Stop. Serve awaits this when the calls of a replica that it stops have ended."""
        if self._watching:
            self._watching.cancel()
        await self._app.drain()
        logs.flush()


def _unary(path: str) -> Callable[..., Any]:
    async def answer(self: Replica, request: bytes, grpc_context: RayServegRPCContext) -> Answer:
        return await self._calls.answer(path, ReplicaCall(grpc_context, _one(request)))

    return answer


def _stream(path: str, *, sends_messages: bool) -> Callable[..., Any]:
    async def answers(
        self: Replica, messages: AsyncIterator[bytes], grpc_context: RayServegRPCContext
    ) -> AsyncGenerator[Answer, None]:
        sent = _sent_through_proxy(messages)
        call = ReplicaCall(grpc_context, sent, sends_messages=sends_messages)
        async for answer in self._calls.answers(path, call):
            yield answer

    return answers


async def _one(message: bytes) -> AsyncIterator[bytes]:
    yield message


async def _sent_through_proxy(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for message in messages:
            yield message
    except RayError:  # the proxy has ended, and the caller's connection with it
        raise asyncio.CancelledError from None


def _add(method: Method) -> None:
    function = (
        _stream(method.path, sends_messages=method.sends_stream)
        if method.answers_stream
        else _unary(method.path)
    )
    function.__name__ = method.name
    setattr(Replica, method.name, function)


for _method in methods():
    _add(_method)
