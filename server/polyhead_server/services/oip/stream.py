"""Serves one ModelStreamInfer call: runs requests as they arrive, answers them in this order."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeAlias

from polyhead_server.errors import RequestError
from polyhead_server.services.oip.response import streamed_failure, streamed_response
from polyhead_server.services.stream_session import StreamSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from polyhead_server.limits import StreamLimits
    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.rpc.handlers import Connection, Method

__all__ = ["InferStream"]

_Answer: TypeAlias = "tuple[bytes, CallContext]"
"""The message with a response or an error, and the call that it answers."""


class InferStream(StreamSession):
    """Reads requests, runs each in a task of its own, and writes the responses, oldest first.

    A request counts from when it is read until its response is sent. So `is_full` stops reading if
    the models or the client are slow.
    """

    def __init__(
        self,
        connection: Connection,
        context: CallContext,
        infer: Method,
        limits: StreamLimits,
        share_bytes: Callable[[], int],
    ) -> None:
        """``infer``: answers one request."""
        super().__init__(connection, context, limits, share_bytes)
        self._infer = infer
        self._unanswered: asyncio.Queue[asyncio.Task[_Answer] | None] = asyncio.Queue()
        """Tasks of requests, oldest first; None marks the end."""
        self._num_unsent = 0
        """Number of requests that run, or whose responses are not yet sent."""
        self._unsent_bytes = 0
        """Size of these requests or, after their run, of their responses."""

    async def accept(self, message: bytes) -> None:
        """Start to run a request."""
        self._num_unsent += 1
        self._unsent_bytes += len(message)
        self._unanswered.put_nowait(asyncio.create_task(self._run(message)))

    def is_full(self) -> bool:
        """Whether the stream must send a response before it reads another request."""
        return (
            self._num_unsent >= self.limits.max_ordered_requests
            or self._unsent_bytes > self.max_held_bytes()
        )

    async def write_loop(self) -> None:
        """Send the responses in the order of the requests."""
        while (task := await self._unanswered.get()) is not None:
            try:
                response, call = await task
            finally:
                task.cancel()  # has an effect only if this loop was cancelled
            await self.connection.write(response)
            self.context.release_now(call)
            self._num_unsent -= 1
            self._unsent_bytes -= len(response)
            del response, call, task  # so that the next wait does not keep the response in memory
            self.has_capacity.set()

    async def finish(self) -> None:
        """Make the write loop end after the last request."""
        self._unanswered.put_nowait(None)

    def tasks(self) -> Iterable[asyncio.Task[_Answer]]:
        """Return the tasks of unanswered requests."""
        remaining = [self._unanswered.get_nowait() for _ in range(self._unanswered.qsize())]
        return [task for task in remaining if task is not None]

    async def _run(self, message: bytes) -> _Answer:
        """Run one request. Its context has the reservation for the request and the response."""
        call, started = self.context.for_message(), time.monotonic()
        self.context.release_at_end(call)
        observer = self.connection.observer
        try:
            response = streamed_response(await self._infer(message, call))
            observer.request_ended(call, started, call.request, None)
        except asyncio.CancelledError as error:
            observer.request_ended(call, started, call.request, error)
            raise
        except Exception as error:  # noqa: BLE001 - the other requests continue
            refusal = error
            if not isinstance(refusal, RequestError):
                refusal = observer.log.unexpected(call.name, error)
            observer.request_ended(call, started, call.request, refusal, call.log_fields)
            fields = call.log_fields | (call.request.log_fields() if call.request else {})
            response = streamed_failure(
                refusal.message, str(fields.get("request_id", "")), str(fields.get("model", ""))
            )
            # the error's traceback refers to this frame, whose variable is the error: a cycle
            del refusal
        self._unsent_bytes += len(response) - len(message)
        return response, call
