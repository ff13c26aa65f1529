"""The iterators that attend_rows returns: blocks of query rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self
from weakref import finalize

from polyhead._calls.response import parse_attend_rows_response
from polyhead.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager

    from polyhead._calls.expected_response import ExpectedResponse
    from polyhead.results import AttentionRows


class _Call(Protocol):
    """gRPC's object for a call under way, whose class is private."""

    def __next__(self) -> bytes: ...
    def cancel(self) -> object: ...


class RowStream:
    """An iterator over AttentionRows, in order. It holds one block at a time.

    The call ends early when the ``with`` is left, when the iterator is closed, and when the last
    reference to it is dropped. All errors, also between blocks, are raised as PolyheadErrors.
    """

    def __init__(
        self,
        call: _Call,
        expected: ExpectedResponse,
        translate_errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._calls = [call]  # empty after the last block
        self._expected = expected
        self._translate_errors = translate_errors
        self._next_row = 0
        # gRPC's call takes a lock when it is deleted. At Python's exit this would deadlock, if
        # gRPC's thread is stopped while it holds the lock. The finalizer runs before.
        finalize(self, self._calls.clear)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> AttentionRows:
        if not self._calls:
            raise StopIteration
        try:
            with self._translate_errors():
                response = next(self._calls[0], None)
            rows = _read(self._expected, response, self._next_row)
        except BaseException:
            self.close()
            raise
        if rows is None:
            self.close()
            raise StopIteration
        self._next_row += len(rows.queries)
        return rows

    def close(self) -> None:
        """End the call here and on the server, unless it has ended. No more blocks follow."""
        for call in self._calls:
            call.cancel()
        self._calls.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncRowStream:
    """An asynchronous iterator over AttentionRows; see RowStream. Its `close` is `aclose`."""

    def __init__(
        self,
        responses: AsyncIterator[bytes],
        cancel: Callable[[], object],
        expected: ExpectedResponse,
        translate_errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._responses = responses
        self._cancel = cancel
        self._expected = expected
        self._translate_errors = translate_errors
        self._next_row = 0
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AttentionRows:
        if self._is_closed:
            raise StopAsyncIteration
        try:
            with self._translate_errors():
                response = await anext(self._responses, None)
            rows = _read(self._expected, response, self._next_row)
        except BaseException:
            await self.aclose()
            raise
        if rows is None:
            await self.aclose()
            raise StopAsyncIteration
        self._next_row += len(rows.queries)
        return rows

    async def aclose(self) -> None:
        """End the call here and on the server, unless it has ended. No more blocks follow."""
        self._is_closed = True
        self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _read(
    expected: ExpectedResponse, response: bytes | None, next_row: int
) -> AttentionRows | None:
    """Read the block that begins with ``next_row``; None if all rows have been read."""
    if response is not None:
        return parse_attend_rows_response(expected, response, next_row)
    if next_row != expected.num_rows:
        raise ServerError(f"the server ended the call after {next_row} of {expected.num_rows} rows")
    return None
