"""One ModelStreamInfer: requests are run as they come, and answered in their order."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from polyhead_server.errors import RequestError
from polyhead_server.rpc.handlers import CallContext, internal_error, log_call
from polyhead_server.services.oip.response import streamed_failure, streamed_response
from polyhead_server.services.stream_session import held_bytes_limit, write_in_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead_server.rpc.handlers import Connection, Method

__all__ = ["InferStream"]

_MAX_HELD = 64
"""Most requests of one stream that wait, run, or were answered and not yet sent."""


class InferStream:
    """Reads requests, runs them, and writes their responses, oldest first."""

    def __init__(
        self,
        connection: Connection,
        context: CallContext,
        infer: Method,
        share_bytes: Callable[[], int],
    ) -> None:
        """``infer`` answers one request; ``share_bytes``: what each stream may hold, as it is."""
        self._connection = connection
        self._context = context
        self._infer = infer
        self._share_bytes = share_bytes
        self._running: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        """Oldest first; None: there will be no more."""
        self._num_held = self._held_bytes = 0
        self._has_room = asyncio.Event()

    async def serve(self, draining: asyncio.Event) -> None:
        """Serve until the caller has no more requests, or this server ends its streams.

        Then everything that was read is answered.
        """
        reading = asyncio.create_task(self._read())
        answering = asyncio.create_task(self._answer())
        ended = asyncio.create_task(draining.wait())
        try:
            await asyncio.wait((reading, answering, ended), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                await asyncio.wait((reading,))
            self._running.put_nowait(None)
            await answering
            if not reading.cancelled():
                reading.result()
        finally:
            left = [self._running.get_nowait() for _ in range(self._running.qsize())]
            for task in (reading, answering, ended, *left):
                if task is not None:
                    task.cancel()
            del reading, answering, task  # what they raise leads here: a cycle

    async def _read(self) -> None:
        while True:
            await self._room()
            message = await self._connection.read()
            if message is None:
                return
            self._num_held += 1
            self._held_bytes += len(message)
            self._running.put_nowait(asyncio.create_task(self._run(message)))
            del message  # which may be large, and is not to wait here for the next

    async def _room(self) -> None:
        """Wait until no more than enough is held."""
        while self._num_held >= _MAX_HELD or self._held_bytes > held_bytes_limit(
            self._share_bytes()
        ):
            self._has_room.clear()
            await self._has_room.wait()

    async def _answer(self) -> None:
        while (running := await self._running.get()) is not None:
            try:
                response = await running
            finally:
                running.cancel()  # where this is
            await write_in_time(self._connection, response)
            self._num_held -= 1
            self._held_bytes -= len(response)
            del response, running
            self._has_room.set()

    async def _run(self, message: bytes) -> bytes:
        """Answer one request, whatever comes of it."""
        call = CallContext(self._context.name, self._context.deadline)
        started = time.monotonic()
        try:
            response = streamed_response(await self._infer(message, call))
            log_call(call.name, started, call.request, None)
        except asyncio.CancelledError as error:
            log_call(call.name, started, call.request, error)
            raise
        except Exception as error:  # noqa: BLE001 - the others go on
            told = error if isinstance(error, RequestError) else internal_error(call.name, error)
            log_call(call.name, started, call.request, told)
            fields = call.request.log_fields() if call.request else {}
            response = streamed_failure(
                told.message, str(fields.get("request_id", "")), str(fields.get("model", ""))
            )
            del told
        self._held_bytes += len(response) - len(message)
        return response
