"""What calls of an attention block give: messages -> results. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from polyhead.errors import ServerError
from polyhead.results import AttentionResult, AttentionRows, Execution, Stage, Weights
from polyhead.tensors import TensorError, to_array
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["CallFacts", "facts_of", "parse_attend_response", "parse_attend_rows_response"]

_KERNELS = {
    pb.ATTENTION_KERNEL_FUSED: "fused",
    pb.ATTENTION_KERNEL_EXPLICIT: "explicit",
}
_STAGES: dict[int, Stage] = {
    pb.ATTN_WEIGHTS_STAGE_SCORES: "scores",
    pb.ATTN_WEIGHTS_STAGE_MASKED: "masked",
}


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What a reply is read with: facts of its call that it does not repeat."""

    selection: Weights
    """Of tuples."""
    q_seq_len: int
    kv_seq_len: int
    is_self_attention: bool
    expected: frozenset[str]
    """Names of the tensors that were asked for."""
    output_bfloat16: np.dtype[Any] | None
    """What BFLOAT16 output becomes; None: float32, as NumPy has no such dtype."""
    weights_bfloat16: np.dtype[Any] | None
    """The same for attention weights."""


def facts_of(
    request: pb.AttendRequest,
    *,
    query: ArrayLike,
    key: ArrayLike | None = None,
    need_weights: bool | Weights = False,
    output_dtype: DTypeLike | None = None,
) -> CallFacts:
    """Note the facts of a call whose arguments became this request."""
    wanted = request.attn_weights
    dtype = need_weights.dtype if isinstance(need_weights, Weights) else None
    query_dtype = getattr(query, "dtype", None)
    expected = {
        "output": not request.omit_output,
        "attn_weights": request.HasField("attn_weights"),
        "top_keys": wanted.top_k > 0,
    }
    return CallFacts(
        selection=Weights(
            heads=tuple(wanted.heads),
            queries=tuple(wanted.queries),
            top_k=wanted.top_k or None,
            average_heads=wanted.average_heads,
            stage=_STAGES.get(wanted.stage, "weights"),
            dtype=dtype,
        ),
        q_seq_len=request.query.shape[-2],
        kv_seq_len=(request.key if request.HasField("key") else request.query).shape[-2],
        is_self_attention=key is None or key is query,
        expected=frozenset(name for name, is_expected in expected.items() if is_expected),
        output_bfloat16=_bfloat16_among(output_dtype, query_dtype),
        weights_bfloat16=_bfloat16_among(dtype, output_dtype, query_dtype),
    )


def parse_attend_response(response: pb.AttendResponse, facts: CallFacts) -> AttentionResult:
    """Read what a call gave. Raises ServerError if the response does not hold it."""
    output, attn_weights, top_keys = _read_tensors(response, facts)
    return AttentionResult(
        output=output,
        attn_weights=attn_weights,
        top_keys=top_keys,
        selection=facts.selection,
        q_seq_len=facts.q_seq_len,
        kv_seq_len=facts.kv_seq_len,
        is_self_attention=facts.is_self_attention,
        request_id=response.request_id,
        execution=_parse_execution(response.execution),
    )


def parse_attend_rows_response(response: pb.AttendRowsResponse, facts: CallFacts) -> AttentionRows:
    """Read one block of rows. Raises ServerError if the response does not hold it."""
    output, attn_weights, top_keys = _read_tensors(response.block, facts)
    rows = output if attn_weights is None else attn_weights
    assert rows is not None, "one of them was asked for, so its absence has been refused"
    first, last = response.first_row, response.first_row + rows.shape[-2]
    asked = facts.selection.queries
    assert not isinstance(asked, int)  # a tuple, as CallFacts says
    return AttentionRows(
        first_row=first,
        queries=tuple(asked[first:last]) if asked else tuple(range(first, last)),
        output=output,
        attn_weights=attn_weights,
        top_keys=top_keys,
        request_id=response.block.request_id,
        execution=_parse_execution(response.block.execution),
    )


def _parse_execution(execution: pb.Execution) -> Execution:
    return Execution(
        model=execution.model,
        model_version=execution.model_version,
        provider=execution.provider,
        kernel=_KERNELS.get(execution.kernel, ""),
        queue_ms=execution.queue_ms,
        compute_ms=execution.compute_ms,
        batch_size=execution.batch_size,
    )


def _bfloat16_among(*dtypes: object) -> np.dtype[Any] | None:
    """Find ml_dtypes' bfloat16, which this package does not import, among a caller's dtypes."""
    candidates = (np.dtype(dtype) for dtype in dtypes if isinstance(dtype, np.dtype | type))
    return next((dtype for dtype in candidates if dtype.name == "bfloat16"), None)


_Array: TypeAlias = "NDArray[Any] | None"


def _read_tensors(response: pb.AttendResponse, facts: CallFacts) -> tuple[_Array, _Array, _Array]:
    """Read output, attention weights and the keys that these are for."""
    present = {field.name for field, _ in response.ListFields()}
    if missing := sorted(facts.expected - present):
        raise ServerError(
            f"the server's reply lacks {' and '.join(missing)}, which were asked for: expected a "
            "polyhead server no older than this client"
        )
    return (
        _read(response.output, facts.output_bfloat16) if "output" in present else None,
        _read(response.attn_weights, facts.weights_bfloat16) if "attn_weights" in present else None,
        _read(response.top_keys, None) if "top_keys" in present else None,
    )


def _read(tensor: pb.Tensor, bfloat16: np.dtype[Any] | None) -> NDArray[Any]:
    try:
        array = to_array(tensor)
    except TensorError as error:
        raise ServerError(f"the server's reply holds no array: {error}") from error
    if bfloat16 and tensor.dtype == pb.DATA_TYPE_BFLOAT16:
        array = array.astype(bfloat16)
        array.flags.writeable = False
    return array
