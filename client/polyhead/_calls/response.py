"""What calls of an attention block give: the bytes of messages -> results. Pure functions.

Large arrays are views of the reply's bytes, which live as long as one of them does. Small ones are
copied out: that takes little, and lets go of a message that many replies may have shared.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.message import DecodeError

from polyhead.errors import ServerError
from polyhead.results import AttentionResult, AttentionRows, Execution
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import Lifter, UnusualError, canonical, tag
from polyhead.wire.tensors import TensorError, TensorLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from google.protobuf.message import Message
    from numpy.typing import NDArray

    from polyhead._calls.expected_response import ExpectedResponse
    from polyhead.wire.protobuf import Payloads
    from polyhead.wire.template import Records, Span

__all__ = [
    "parse_attend_response",
    "parse_attend_responses",
    "parse_attend_rows_response",
]

_KERNELS = {
    pb.ATTENTION_KERNEL_FUSED: "fused",
    pb.ATTENTION_KERNEL_EXPLICIT: "explicit",
}
_DATA = tag(pb.Tensor.DATA_FIELD_NUMBER)
_PAYLOADS: Payloads = {
    tag(pb.AttendResponse.OUTPUT_FIELD_NUMBER): {_DATA: 0},
    tag(pb.AttendResponse.ATTN_WEIGHTS_FIELD_NUMBER): {_DATA: 1},
    tag(pb.AttendResponse.TOP_KEYS_FIELD_NUMBER): {_DATA: 2},
    # Short, but different in every reply: without them, what is left of alike replies is the same.
    tag(pb.AttendResponse.REQUEST_ID_FIELD_NUMBER): 3,
    tag(pb.AttendResponse.EXECUTION_FIELD_NUMBER): 4,
}
_REPLY = Lifter(_PAYLOADS, 5)
_BLOCK = Lifter({tag(pb.AttendRowsResponse.BLOCK_FIELD_NUMBER): 0}, 1)
_TENSORS = ("output", "attn_weights", "top_keys")
_BFLOAT16 = pb.DATA_TYPE_BFLOAT16
_MIN_VIEW_BYTES = 64 * 1024
"""Arrays of fewer bytes are copied out of their reply."""


def parse_attend_response(
    expected: ExpectedResponse, data: bytes, start: int = 0, end: int | None = None
) -> AttentionResult:
    """Read what a call gave from the AttendResponse in ``data[start:end]``.

    Raises ServerError if the response does not hold it.
    """
    found = _find(expected, data, start, len(data) if end is None else end)
    [result] = found.results(found.columns())
    return result


def parse_attend_responses(
    expected: Sequence[ExpectedResponse | None], records: Records, span: Span
) -> list[AttentionResult | ServerError | None]:
    """Read what calls gave, each from the AttendResponse that is a record's span; None: nothing."""
    told: list[AttentionResult | ServerError | None] = []
    for _, calls in groupby(expected, key=id):
        same = list(calls)
        own, end = same[0], len(told) + len(same)
        if own is None:
            told += [None] * len(same)
        else:
            while len(told) < end:
                told += _parse_alike(own, records.part(len(told), end - len(told)), span)
    return told


def _parse_alike(
    expected: ExpectedResponse, records: Records, span: Span
) -> Sequence[AttentionResult | ServerError]:
    """Read the first response, with those after it that are like it."""
    data, start, end = records.data, records.begin + span[0], records.begin + span[1]
    try:
        found = _find(expected, data, start, end)
        if records.num_records > 1 and found.data is data:
            with suppress(ServerError):  # of one of them: which, is found by reading one by one
                return found.results(found.columns_of_alike(records, span))
        return found.results(found.columns())
    except ServerError as error:
        error.__traceback__ = None  # leads to the error itself: a cycle
        return [error]


def parse_attend_rows_response(
    expected: ExpectedResponse, data: bytes, next_row: int
) -> AttentionRows:
    """Read the block that begins with row ``next_row`` of those that were asked for.

    Raises ServerError if the response does not hold it.
    """
    try:
        data, left, [(start, end)] = _lifted(pb.AttendRowsResponse, data, (0, len(data)), _BLOCK)
        first = pb.AttendRowsResponse.FromString(left).first_row
    except (DecodeError, UnusualError) as error:
        raise _unreadable() from error
    found = _find(expected, data, start, end, is_block=True)
    last = first + found.num_rows
    if not next_row == first < last <= expected.num_rows:
        raise ServerError(
            f"the server's reply has rows {first} to {last} of {expected.num_rows}: expected a "
            f"block that begins with row {next_row}"
        )
    [result] = found.results(found.columns())
    asked = expected.selection.queries
    assert not isinstance(asked, int)  # a tuple, as ExpectedResponse says
    return AttentionRows(
        first_row=first,
        queries=tuple(asked[first:last]) if asked else tuple(range(first, last)),
        output=result.output,
        attn_weights=result.attn_weights,
        top_keys=result.top_keys,
        request_id=result.request_id,
        execution=result.execution,
    )


_Pieces: TypeAlias = "Sequence[bytes | memoryview]"
"""What each of some responses that are alike has in one place."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What an AttendResponse has, and where; others that are like it have the same."""

    expected: ExpectedResponse
    data: bytes
    """That it lies in."""
    layouts: dict[str, TensorLayout]
    """Of the tensors that it has."""
    spans: list[Span]
    """Of the elements of output, attention weights and their keys; of the id; of the execution.
    (0, 0): it has none."""

    @property
    def num_rows(self) -> int:
        """Number of query rows of what was asked for."""
        shape = self.layouts["attn_weights" if "attn_weights" in self.layouts else "output"].shape
        return shape[-2] if len(shape) > 1 else 0

    def columns(self) -> list[_Pieces]:
        """Take what lies in its spans: large pieces as views."""
        data = self.data
        return [
            [memoryview(data)[start:end] if end - start >= _MIN_VIEW_BYTES else data[start:end]]
            for start, end in self.spans
        ]

    def columns_of_alike(self, records: Records, span: Span) -> list[_Pieces]:
        """Take the same of all that are like it, which lies in the first record's span."""
        begin, (first, last) = records.begin, span
        spans = [(start - begin, end - begin) if end else (0, 0) for start, end in self.spans]
        there = [each for each in spans if each[1]]
        alike = records.like_first((*there, (0, first), (last, records.size)))
        nothing = [b""] * alike.num_records
        return [alike.column(each) if each[1] else nothing for each in spans]

    def results(self, columns: Sequence[_Pieces]) -> list[AttentionResult]:
        """Read its result, and those of others that are like it. Raises ServerError."""
        expected = self.expected
        output, attn_weights, top_keys, request_ids, executions = columns
        try:
            told = zip(
                self._arrays("output", output, expected.output_bfloat16),
                self._arrays("attn_weights", attn_weights, expected.weights_bfloat16),
                self._arrays("top_keys", top_keys, None),
                [str(each, "utf-8") for each in request_ids],
                [_parse_execution(bytes(each)) for each in executions],
                strict=True,
            )
        except TensorError as error:
            raise _no_array(error) from error
        except (UnicodeDecodeError, DecodeError) as error:
            raise _unreadable() from error
        return [
            AttentionResult(
                output=output,
                attn_weights=attn_weights,
                top_keys=top_keys,
                selection=expected.selection,
                q_seq_len=expected.q_seq_len,
                kv_seq_len=expected.kv_seq_len,
                is_self_attention=expected.is_self_attention,
                request_id=request_id,
                execution=execution,
            )
            for output, attn_weights, top_keys, request_id, execution in told
        ]

    def _arrays(
        self, name: str, pieces: _Pieces, bfloat16: np.dtype[Any] | None
    ) -> Sequence[NDArray[Any] | None]:
        """View a tensor's elements as arrays; None of what is not there. Raises TensorError."""
        if name not in self.layouts:
            return [None] * len(pieces)
        layout = self.layouts[name]
        arrays = layout.read_each(pieces)
        if bfloat16 is not None and layout.dtype == _BFLOAT16:
            arrays = [array.astype(bfloat16) for array in arrays]
            for array in arrays:
                array.setflags(write=False)
        return arrays


@lru_cache(256)  # of replies that come together many are of one run
def _parse_execution(data: bytes) -> Execution:
    execution = pb.Execution.FromString(data)
    return Execution(
        model=execution.model,
        model_version=execution.model_version,
        provider=execution.provider,
        kernel=_KERNELS.get(execution.kernel, ""),
        queue_ms=execution.queue_ms,
        compute_ms=execution.compute_ms,
        batch_size=execution.batch_size,
    )


def _find(
    expected: ExpectedResponse, data: bytes, start: int, end: int, *, is_block: bool = False
) -> _Found:
    """Find what the AttendResponse in ``data[start:end]`` has, and check that it was asked for."""
    if _MIN_VIEW_BYTES <= end - start < len(data) // 2:  # a view would keep other replies' bytes
        data, start, end = data[start:end], 0, end - start
    try:
        data, left, spans = _lifted(pb.AttendResponse, data, (start, end), _REPLY)
        # No reply of ours leaves more; what another leaves is not worth remembering.
        layouts = _remembered_layouts(left) if len(left) < 1024 else _read_layouts(left)
        for name, (first, last) in zip(_TENSORS, spans, strict=False):
            if name in layouts:
                layouts[name].check_size(last - first)
    except (DecodeError, UnusualError) as error:
        raise _unreadable() from error
    except TensorError as error:
        raise _no_array(error) from error
    if not expected.tensor_names <= layouts.keys():
        missing = " and ".join(sorted(expected.tensor_names - layouts.keys()))
        raise ServerError(
            f"the server's reply lacks {missing}, which were asked for: expected a polyhead "
            "server no older than this client"
        )
    found = _Found(expected, data, layouts, spans)
    _check_shapes(found, found.num_rows if is_block else 0)
    return found


def _check_shapes(found: _Found, num_block_rows: int) -> None:
    """Refuse arrays of other sequences or rows than those that were asked for."""
    expected, layouts = found.expected, found.layouts
    if "output" in layouts:
        num_rows = num_block_rows or expected.q_seq_len
        _check_shape(
            "output", layouts["output"].shape, expected.num_axes, expected.batch_size, num_rows
        )
    if "attn_weights" in layouts:
        shape = layouts["attn_weights"].shape
        num_rows = num_block_rows or expected.num_rows
        _check_shape("attn_weights", shape, 4, expected.batch_size, num_rows)
        if "top_keys" in layouts and layouts["top_keys"].shape != shape:
            raise ServerError(
                f"the server's reply has top_keys of shape {layouts['top_keys'].shape}: expected "
                f"that of attn_weights, {shape}"
            )


def _check_shape(
    name: str, shape: tuple[int, ...], num_axes: int, batch_size: int, num_rows: int
) -> None:
    if len(shape) != num_axes or shape[0] != batch_size or shape[-2] != num_rows:
        raise ServerError(
            f"the server's reply has {name} of shape {shape}: expected {num_axes} axes, a batch "
            f"size of {batch_size} and {num_rows} rows"
        )


def _lifted(
    message_type: type[Message], data: bytes, span: tuple[int, int], lifter: Lifter
) -> tuple[bytes, bytes, list[tuple[int, int]]]:
    """Take the payloads out of a message: the bytes that they lie in, what is left, and where.

    Raises DecodeError for bytes that are no such message.
    """
    try:
        return data, *lifter.lift(data, *span)
    except UnusualError:
        data = canonical(message_type, data[slice(*span)])
        return data, *lifter.lift(data, 0, len(data))


def _read_layouts(left: bytes) -> dict[str, TensorLayout]:
    """Read what is left of an AttendResponse: dtypes and shapes of the tensors that it has.

    Raises DecodeError for bytes that are none, TensorError for tensors that are no arrays.
    """
    response = pb.AttendResponse.FromString(left)
    return {
        name: TensorLayout.of(getattr(response, name))
        for name in _TENSORS
        if response.HasField(name)  # type: ignore[arg-type]  # one of its fields
    }


_remembered_layouts = lru_cache(1024)(_read_layouts)


def _no_array(error: TensorError) -> ServerError:
    return ServerError(f"the server's reply holds no array: {error}")


def _unreadable() -> ServerError:
    return ServerError("the server's reply could not be read")
