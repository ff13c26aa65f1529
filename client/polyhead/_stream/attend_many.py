"""attend_many: submit requests to streams, and yield the results in the order of the requests.

The input is read only while fewer than max_in_flight requests are under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar

from polyhead._calls.request import prepare_call
from polyhead._checks import bad_value, invalid, is_iterable
from polyhead._stream.outcomes import take_result
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
    from polyhead._stream.async_stream import AwaitableRequest
    from polyhead._stream.messages import Outcome
    from polyhead._stream.sync_stream import BlockingRequest
    from polyhead.results import AttentionResult, LayerKey, Vectors, Weights

Item: TypeAlias = "ArrayLike | Mapping[str, Any]"
"""A request: its query, or attend's arguments by name."""


class SharedArguments(TypedDict, total=False):
    """Arguments of attend, for all requests without their own."""

    model: str
    version: int | None
    layer: LayerKey | None
    key: ArrayLike | None
    value: ArrayLike | None
    attn_mask: ArrayLike | None
    kv_lengths: ArrayLike | None
    key_padding_mask: ArrayLike | None
    positions: ArrayLike | None
    key_positions: ArrayLike | None
    need_weights: bool | Weights
    head_vectors: bool | Vectors
    need_output: bool
    output_dtype: DTypeLike | None
    request_id: str | None
    timeout: float | None


_NAMES = ("query", *SharedArguments.__annotations__)
_MAX_SUBMITTED_AT_ONCE = 64
"""Most items that are submitted before other tasks may run, if the input never waits."""

_Request = TypeVar("_Request", "BlockingRequest", "AwaitableRequest")


def prepare_item(item: Item, shared: SharedArguments) -> tuple[PreparedCall, float | None]:
    """Prepare the call of one item of the input; return the call and its timeout.

    Raises InvalidArgumentError for arguments that attend refuses, and for a dict without a query.
    """
    item_arguments: Mapping[str, Any] = {"query": item}
    if isinstance(item, Mapping):
        item_arguments = item
        _check_names(item_arguments, _NAMES)
        if "query" not in item_arguments:
            raise invalid("query", "expected one in every dict of arguments", "query", "REQUIRED")
    # prepare_call refuses model=None
    arguments = {"model": None, **shared, **item_arguments}
    timeout = arguments.pop("timeout", None)
    return prepare_call(**arguments), timeout


def check_requests(requests: object, *, may_be_async: bool = False) -> None:
    """Refuse requests that cannot be iterated. Raises InvalidArgumentError."""
    is_async = may_be_async and isinstance(requests, AsyncIterable)
    if not (is_async or is_iterable(requests)):
        raise bad_value("requests", f"expected queries, or dicts of arguments; got {requests!r}")


def check_shared(shared: SharedArguments) -> None:
    """Refuse `query`, and names that are not arguments of attend. Raises InvalidArgumentError."""
    _check_names(shared, SharedArguments.__annotations__)


def _check_names(arguments: Mapping[str, object], names: Collection[str]) -> None:
    for name in arguments:
        if name not in names:
            raise bad_value(str(name), f"is not an argument: expected {', '.join(names)}")


def results_in_order(
    items: Iterable[Item],
    submit: Callable[[Item], BlockingRequest],
    *,
    max_in_flight: int,
    return_exceptions: bool,
) -> Generator[AttentionResult | PolyheadError, None, None]:
    """Submit items while fewer than ``max_in_flight`` are under way; yield results in order."""
    source = iter(items)
    window: deque[BlockingRequest | list[Outcome]] = deque()
    failures: list[Exception] = []
    has_more = True
    try:
        while True:
            while has_more and len(window) < max_in_flight:
                try:
                    window.append(_try_submit(next(source), submit))
                except StopIteration:
                    has_more = False
                except Exception as error:  # noqa: BLE001 - the input's error, raised after the results
                    has_more = False
                    failures.append(error)
                else:
                    first = window[0]
                    if isinstance(first, list) or first.is_done:
                        break  # the first result is ready, so it does not wait for another item
            if not window:
                break
            outcomes = _wait_for_outcome(window.popleft())
            yield outcomes.pop() if return_exceptions else take_result(outcomes)
        if failures:
            raise failures.pop()
    finally:
        _abandon(window)


async def async_results_in_order(
    items: Iterable[Item] | AsyncIterable[Item],
    submit: Callable[[Item], AwaitableRequest],
    *,
    max_in_flight: int,
    return_exceptions: bool,
) -> AsyncGenerator[AttentionResult | PolyheadError, None]:
    """Submit items while fewer than ``max_in_flight`` are under way; yield results in order."""
    window: asyncio.Queue[AwaitableRequest | list[Outcome] | None] = asyncio.Queue()
    room = asyncio.Semaphore(max_in_flight)
    # The input is read in a task of its own, so that a slow input does not delay results.
    feeding = asyncio.create_task(_feed(items, submit, window, room))
    try:
        while (request := await window.get()) is not None:
            outcomes = await _await_outcome(request)
            room.release()
            yield outcomes.pop() if return_exceptions else take_result(outcomes)
        await feeding  # raises the input's error, if it has raised one
    finally:
        feeding.cancel()
        try:
            await asyncio.wait([feeding])
        finally:  # even if the wait is cancelled, as it is when the loop ends
            _abandon([window.get_nowait() for _ in range(window.qsize())])


async def _feed(
    items: Iterable[Item] | AsyncIterable[Item],
    submit: Callable[[Item], AwaitableRequest],
    window: asyncio.Queue[AwaitableRequest | list[Outcome] | None],
    room: asyncio.Semaphore,
) -> None:
    source = aiter(items) if isinstance(items, AsyncIterable) else _as_async_iterator(items)
    try:
        for n in count(1):
            if n % _MAX_SUBMITTED_AT_ONCE == 0:
                await asyncio.sleep(0)
            await room.acquire()
            window.put_nowait(_try_submit(await anext(source), submit))
    except StopAsyncIteration:
        pass
    finally:
        window.put_nowait(None)


async def _as_async_iterator(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item


def _try_submit(item: Item, submit: Callable[[Item], _Request]) -> _Request | list[Outcome]:
    """Submit an item; return its request, or a list with the error that attend would raise."""
    try:
        return submit(item)
    except PolyheadError as error:
        return [error]


def _wait_for_outcome(request: BlockingRequest | list[Outcome]) -> list[Outcome]:
    try:
        return request if isinstance(request, list) else [request.result()]
    except PolyheadError as error:
        return [error]


async def _await_outcome(request: AwaitableRequest | list[Outcome]) -> list[Outcome]:
    try:
        return request if isinstance(request, list) else [await request.result()]
    except PolyheadError as error:
        return [error]


def _abandon(requests: Iterable[BlockingRequest | AwaitableRequest | list[Outcome] | None]) -> None:
    for request in requests:
        if request is not None and not isinstance(request, list):
            request.abandon()
