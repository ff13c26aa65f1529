"""attend_many: requests go into streams one after another, and their results come in that order.

The input is read only as far as there is room among the requests that are under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict, TypeVar

from polyhead._arguments.checks import bad_value, invalid
from polyhead._calls.request import prepare_call
from polyhead.errors import PolyheadError

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Collection,
        Generator,
        Iterable,
    )

    from numpy.typing import ArrayLike, DTypeLike

    from polyhead._calls.request import PreparedCall
    from polyhead.results import AttentionResult, Weights

__all__ = [
    "Item",
    "SharedArguments",
    "async_results_in_order",
    "check_shared",
    "prepare_item",
    "results_in_order",
]

Item: TypeAlias = "ArrayLike | Mapping[str, Any]"
"""A request: its query, or attend's arguments by name."""


class SharedArguments(TypedDict, total=False):
    """Arguments of attend, for all requests that do not name their own."""

    model: str
    version: int | None
    key: ArrayLike | None
    value: ArrayLike | None
    attn_mask: ArrayLike | None
    kv_lengths: ArrayLike | None
    positions: ArrayLike | None
    key_positions: ArrayLike | None
    need_weights: bool | Weights
    need_output: bool
    output_dtype: DTypeLike | None
    request_id: str | None
    timeout: float | None


_NAMES = ("query", *SharedArguments.__annotations__)
_MAX_AT_ONCE = 64
"""How many items of an input that never waits are submitted before other tasks have a turn."""


class _Request(Protocol):
    """A request that is under way."""

    def abandon(self) -> None:
        """Give it up."""


class _BlockingRequest(_Request, Protocol):
    @property
    def is_done(self) -> bool:
        """Whether result would not wait."""

    def result(self) -> AttentionResult:
        """Wait for the result. Raises PolyheadError."""


class _AwaitableRequest(_Request, Protocol):
    async def result(self) -> AttentionResult:
        """Await the result. Raises PolyheadError."""


_AnyRequest = TypeVar("_AnyRequest", bound=_Request)


def prepare_item(item: Item, shared: SharedArguments) -> tuple[PreparedCall, float | None]:
    """Prepare the call that an item of the input means, and return its timeout.

    Raises InvalidArgumentError for arguments that attend refuses, and for a dict without a query.
    """
    own: Mapping[str, Any] = {"query": item}
    if isinstance(item, Mapping):
        own = item
        _check_names(own, _NAMES)
        if "query" not in own:
            raise invalid("query", "expected one in every dict of arguments", "query", "REQUIRED")
    arguments = {"model": None, **shared, **own}  # attend refuses a request without a model
    timeout = arguments.pop("timeout", None)
    return prepare_call(**arguments), timeout


def check_shared(shared: SharedArguments) -> None:
    """Refuse what is no argument of attend, or the query. Raises InvalidArgumentError."""
    _check_names(shared, SharedArguments.__annotations__)


def _check_names(arguments: Mapping[str, object], names: Collection[str]) -> None:
    for name in arguments:
        if name not in names:
            raise bad_value(str(name), f"is no argument: expected {', '.join(names)}")


def results_in_order(
    items: Iterable[Item],
    submit: Callable[[Item], _BlockingRequest],
    *,
    max_in_flight: int,
    return_exceptions: bool,
) -> Generator[AttentionResult | PolyheadError, None, None]:
    """Submit items as far as there is room, and yield their results in order."""
    source = iter(items)
    window: deque[_BlockingRequest | PolyheadError] = deque()
    result: AttentionResult | PolyheadError | None
    failure: Exception | None = None
    has_more = True
    try:
        while True:
            while has_more and len(window) < max_in_flight:
                try:
                    window.append(_submitted(next(source), submit))
                except StopIteration:
                    has_more = False
                except Exception as error:  # noqa: BLE001 - the input's: raised at its place
                    has_more, failure = False, error
                else:
                    first = window[0]
                    if isinstance(first, PolyheadError) or first.is_done:
                        break  # it waits for no further item
            if not window:
                break
            result = _outcome(window.popleft())
            if isinstance(result, PolyheadError) and not return_exceptions:
                raise result
            yield result
        if failure is not None:
            raise failure
    finally:
        result = failure = None  # or an error's traceback would lead to itself, in a cycle
        _abandon(window)


async def async_results_in_order(
    items: Iterable[Item] | AsyncIterable[Item],
    submit: Callable[[Item], _AwaitableRequest],
    *,
    max_in_flight: int,
    return_exceptions: bool,
) -> AsyncGenerator[AttentionResult | PolyheadError, None]:
    """Submit items as far as there is room, and yield their results in order."""
    window: asyncio.Queue[_AwaitableRequest | PolyheadError | None] = asyncio.Queue()
    room = asyncio.Semaphore(max_in_flight)
    result: AttentionResult | PolyheadError | None
    # A task of its own: an input that takes its time does not hold up results.
    feeding = asyncio.create_task(_feed(items, submit, window, room))
    try:
        while (request := await window.get()) is not None:
            result = await _awaited_outcome(request)
            if isinstance(result, PolyheadError) and not return_exceptions:
                raise result
            room.release()
            yield result
        await feeding  # raises what the input has raised
    finally:
        result = None  # or an error's traceback would lead to itself, in a cycle
        feeding.cancel()
        try:
            await asyncio.wait([feeding])
        finally:  # though this is cancelled too, as when the loop ends
            _abandon([window.get_nowait() for _ in range(window.qsize())])


async def _feed(
    items: Iterable[Item] | AsyncIterable[Item],
    submit: Callable[[Item], _AwaitableRequest],
    window: asyncio.Queue[_AwaitableRequest | PolyheadError | None],
    room: asyncio.Semaphore,
) -> None:
    source = aiter(items) if isinstance(items, AsyncIterable) else _made_async(items)
    try:
        for n in count(1):
            if n % _MAX_AT_ONCE == 0:
                await asyncio.sleep(0)
            await room.acquire()
            window.put_nowait(_submitted(await anext(source), submit))
    except StopAsyncIteration:
        pass
    finally:
        window.put_nowait(None)


async def _made_async(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item


def _submitted(item: Item, submit: Callable[[Item], _AnyRequest]) -> _AnyRequest | PolyheadError:
    """Submit an item, or give the error that attend would raise for its arguments."""
    try:
        return submit(item)
    except PolyheadError as error:
        return error


def _outcome(request: _BlockingRequest | PolyheadError) -> AttentionResult | PolyheadError:
    try:
        return request if isinstance(request, PolyheadError) else request.result()
    except PolyheadError as error:
        return error


async def _awaited_outcome(
    request: _AwaitableRequest | PolyheadError,
) -> AttentionResult | PolyheadError:
    try:
        return request if isinstance(request, PolyheadError) else await request.result()
    except PolyheadError as error:
        return error


def _abandon(requests: Iterable[_Request | PolyheadError | None]) -> None:
    for request in requests:
        if request is not None and not isinstance(request, PolyheadError):
            request.abandon()
