"""Blocks of query rows as they come: what `attend_rows` of the two clients gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from polyhead._replies import parse_attend_rows_response
from polyhead.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from polyhead._replies import CallFacts
    from polyhead.results import AttentionRows

__all__ = ["AsyncRowStream", "RowStream"]


class RowStream:
    """An iterator over AttentionRows, in order; one block is held at a time.

    Used in ``with``, or closed, it ends the call where the caller leaves early; forgetting it
    does so too. Whatever goes wrong, between blocks as well, is raised as a PolyheadError.
    """

    def __init__(
        self,
        responses: Iterator[bytes],
        cancel: Callable[[], object],
        facts: CallFacts,
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._responses = responses
        self._cancel = cancel
        self._facts = facts
        self._translated = translated
        self._is_closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> AttentionRows:
        if self._is_closed:
            raise StopIteration
        with self._translated():
            response = next(self._responses, None)
        if response is None:
            raise StopIteration
        try:
            return parse_attend_rows_response(self._facts, response)
        except ServerError:
            self.close()
            raise

    def close(self) -> None:
        """End the call on the server too, unless it has ended; there are no further blocks."""
        self._is_closed = True
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncRowStream:
    """An asynchronous iterator over AttentionRows; see RowStream. Its `close` is `aclose`."""

    def __init__(
        self,
        responses: AsyncIterator[bytes],
        cancel: Callable[[], object],
        facts: CallFacts,
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._responses = responses
        self._cancel = cancel
        self._facts = facts
        self._translated = translated
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AttentionRows:
        if self._is_closed:
            raise StopAsyncIteration
        with self._translated():
            response = await anext(self._responses, None)
        if response is None:
            raise StopAsyncIteration
        try:
            return parse_attend_rows_response(self._facts, response)
        except ServerError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End the call on the server too, unless it has ended; there are no further blocks."""
        self._is_closed = True
        self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
