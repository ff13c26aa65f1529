"""The bytes of an attention block's responses -> results. Pure functions.

Large arrays are views of the response's bytes, which live as long as one of the arrays. Small
arrays are copies. A copy is cheap, and releases a message that may have held many responses.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from google.protobuf.message import DecodeError

from polyhead._calls.response_format import (
    ATTEND,
    ATTEND_ROWS,
    EXECUTION,
    FIRST_ROW,
    MIN_VIEW_BYTES,
    REQUEST_ID,
    VECTORS,
    payload_of,
    unreadable_error,
)
from polyhead.errors import ServerError
from polyhead.results import AttentionResult, AttentionRows, Execution, HeadVectors
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import read_varint
from polyhead.wire.tensors import TensorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from polyhead._calls.expected_response import ExpectedResponse, ExpectedVectors
    from polyhead._calls.response_format import ResponseMatch
    from polyhead.results import Vectors
    from polyhead.wire.tensors import TensorLayout

    _Layouts: TypeAlias = dict[str, TensorLayout]
    _Pieces: TypeAlias = Sequence[bytes | memoryview]

_KERNELS = {pb.ATTENTION_KERNEL_FUSED: "fused", pb.ATTENTION_KERNEL_EXPLICIT: "explicit"}
_BFLOAT16 = pb.DATA_TYPE_BFLOAT16


def parse_attend_response(expected: ExpectedResponse, data: bytes) -> AttentionResult:
    """Read an AttendResponse. Raises ServerError if it does not hold what is expected."""
    match = ATTEND.match(data)
    _check(expected, _layouts(match), expected.q_seq_len, expected.num_rows)
    [result] = _results(expected, match)
    return result


def parse_attend_responses(
    expected: Sequence[ExpectedResponse | None], match: ResponseMatch
) -> list[AttentionResult | ServerError | None]:
    """Read a group of responses. A response whose ExpectedResponse is None is skipped."""
    outcomes: list[AttentionResult | ServerError | None] = []
    for _, equal in groupby(expected, key=id):
        [first, *others] = equal
        count = 1 + len(others)
        if first is None:
            outcomes += [None] * count
        else:
            outcomes += _parse_group(first, match.part(len(outcomes), count))
    return outcomes


def _parse_group(
    expected: ExpectedResponse, match: ResponseMatch
) -> Sequence[AttentionResult | ServerError]:
    try:
        _check(expected, _layouts(match), expected.q_seq_len, expected.num_rows)
        return _results(expected, match)
    except ServerError as error:
        if match.count > 1:  # read each by itself, to find the ones that are wrong
            parts = [match.part(index, 1) for index in range(match.count)]
            return [outcome for part in parts for outcome in _parse_group(expected, part)]
        error.__traceback__ = None  # it refers to this frame, which refers to the error: a cycle
        return [error]


def parse_attend_rows_response(
    expected: ExpectedResponse, data: bytes, next_row: int
) -> AttentionRows:
    """Read the block that begins with row ``next_row`` of the requested rows.

    Raises ServerError if the response does not hold this block.
    """
    match = ATTEND_ROWS.match(data)
    layouts, first_row = _layouts(match), match.payload(FIRST_ROW)
    first = read_varint(first_row)[0] if first_row else 0
    num_rows = _num_rows(layouts)
    _check(expected, layouts, num_rows, num_rows)
    last = first + num_rows
    if not next_row == first < last <= expected.num_rows:
        raise ServerError(
            f"the server's reply has rows {first} to {last} of {expected.num_rows}: expected a "
            f"block that begins with row {next_row}"
        )
    [result] = _results(expected, match)
    queries = cast("tuple[int, ...]", expected.selection.queries)  # as ExpectedResponse says
    return AttentionRows(
        first_row=first,
        queries=queries[first:last] if queries else tuple(range(first, last)),
        output=result.output,
        attn_weights=result.attn_weights,
        top_keys=result.top_keys,
        request_id=result.request_id,
        execution=result.execution,
    )


def _results(expected: ExpectedResponse, match: ResponseMatch) -> list[AttentionResult]:
    """Make the results of a group of responses. Raises ServerError."""
    layouts = _layouts(match)
    if match.count == 1 and MIN_VIEW_BYTES <= match.size < len(match.data) // 2:
        match = match.detached()  # a view would keep the bytes of other responses
    try:
        rows = zip(
            _arrays(match, layouts, "output", expected.output_bfloat16),
            _arrays(match, layouts, "attn_weights", expected.weights_bfloat16),
            _arrays(match, layouts, "top_keys", None),
            _vectors(match, layouts, expected.vectors),
            [str(request_id, "utf-8") for request_id in match.column(REQUEST_ID)],
            map(_parse_execution, match.column(EXECUTION)),
            strict=True,
        )
        return [
            AttentionResult(
                output=output,
                attn_weights=attn_weights,
                top_keys=top_keys,
                head_vectors=head_vectors,
                selection=expected.selection,
                q_seq_len=expected.q_seq_len,
                kv_seq_len=expected.kv_seq_len,
                is_self_attention=expected.is_self_attention,
                request_id=request_id,
                execution=execution,
            )
            for output, attn_weights, top_keys, head_vectors, request_id, execution in rows
        ]
    except TensorError as error:
        raise ServerError(f"the server's reply holds no array: {error}") from error
    except (UnicodeDecodeError, DecodeError) as error:
        raise unreadable_error() from error


def _vectors(
    match: ResponseMatch, layouts: _Layouts, expected: ExpectedVectors | None
) -> Sequence[HeadVectors | None]:
    """Read the vectors of every response; None if they were not requested. Raises TensorError."""
    if expected is None:
        return [None] * match.count
    kinds = tuple(VECTORS)
    columns = [_arrays(match, layouts, f"head_vectors.{kind}", expected.bfloat16) for kind in kinds]
    return [
        HeadVectors(selection=expected.selection, **dict(zip(kinds, row, strict=True)))
        for row in zip(*columns, strict=True)
    ]


def _arrays(
    match: ResponseMatch, layouts: _Layouts, name: str, bfloat16: np.dtype[Any] | None
) -> Sequence[NDArray[Any] | None]:
    """Read a tensor of every response; None if the responses lack it. Raises TensorError."""
    layout = layouts.get(name)
    if layout is None:
        return [None] * match.count
    index = payload_of(name)
    pieces: _Pieces
    if match.count == 1 and layout.nbytes >= MIN_VIEW_BYTES:
        pieces = [memoryview(match.data)[slice(*match.span(index))]]
    else:
        pieces = match.column(index)
    arrays = layout.read_each(pieces)
    if bfloat16 is not None and layout.dtype == _BFLOAT16:
        arrays = [array.astype(bfloat16) for array in arrays]
        for array in arrays:
            array.setflags(write=False)
    return arrays


@lru_cache(256)  # responses of one message are often of one run, and have the same bytes here
def _parse_execution(data: bytes) -> Execution:
    return execution_of(pb.Execution.FromString(data))


def execution_of(execution: pb.Execution) -> Execution:
    """Read how a call was executed."""
    return Execution(
        model=execution.model,
        model_version=execution.model_version,
        provider=execution.provider,
        kernel=_KERNELS.get(execution.kernel, ""),
        queue_ms=execution.queue_ms,
        compute_ms=execution.compute_ms,
        batch_size=execution.batch_size,
    )


def _layouts(match: ResponseMatch) -> _Layouts:
    if match.value is None:
        raise ServerError("the server's reply holds neither response nor error")
    return match.value


def _num_rows(layouts: _Layouts) -> int:
    """Count the query rows of a block."""
    layout = layouts.get("attn_weights") or layouts.get("output")
    return layout.shape[-2] if layout and layout.ndim > 1 else 0


def _check(
    expected: ExpectedResponse, layouts: _Layouts, num_output_rows: int, num_weights_rows: int
) -> None:
    """Refuse a response that lacks a tensor, or has one with other sequences or rows."""
    if not expected.tensor_names <= layouts.keys():
        missing = " and ".join(sorted(expected.tensor_names - layouts.keys()))
        raise missing_error(missing)
    batch_size = expected.batch_size
    if expected.vectors is not None:
        _check_vectors(expected, expected.vectors.selection, layouts)
    if "output" in layouts:
        shape = layouts["output"].shape
        _check_shape("output", shape, expected.num_axes, batch_size, num_output_rows)
    if "attn_weights" in layouts:
        shape = layouts["attn_weights"].shape
        _check_shape("attn_weights", shape, 4, batch_size, num_weights_rows)
        if "top_keys" in layouts and layouts["top_keys"].shape != shape:
            raise ServerError(
                f"the server's reply has top_keys of shape {layouts['top_keys'].shape}: expected "
                f"that of attn_weights, {shape}"
            )


def _check_vectors(expected: ExpectedResponse, selection: Vectors, layouts: _Layouts) -> None:
    """Refuse vectors that are missing, or are of other sequences, heads or tokens."""
    for kind in selection.kinds:
        name = f"head_vectors.{kind}"
        length, indices = expected.q_seq_len, cast("tuple[int, ...]", selection.queries)
        if kind in ("key", "value"):
            length, indices = expected.kv_seq_len, cast("tuple[int, ...]", selection.keys)
        if name not in layouts:
            raise missing_error(name)
        shape, heads = layouts[name].shape, cast("tuple[int, ...]", selection.heads)
        _check_shape(name, shape, 4, expected.batch_size, len(indices) or length)
        if heads and shape[1] != len(heads):
            raise ServerError(
                f"the server's reply has {name} of {shape[1]} heads: expected {len(heads)}"
            )


def missing_error(names: str) -> ServerError:
    """Make the error for a response that lacks some of the requested tensors."""
    return ServerError(
        f"the server's reply lacks {names}, which were requested: expected a polyhead "
        "server no older than this client"
    )


def _check_shape(
    name: str, shape: tuple[int, ...], num_axes: int, batch_size: int, num_rows: int
) -> None:
    if len(shape) != num_axes or shape[0] != batch_size or shape[-2] != num_rows:
        raise ServerError(
            f"the server's reply has {name} of shape {shape}: expected {num_axes} axes, a batch "
            f"size of {batch_size} and {num_rows} rows"
        )
