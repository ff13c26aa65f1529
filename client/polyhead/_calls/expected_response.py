"""What a reply is read with: facts of its call that it does not repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.results import Stage, Weights
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["ExpectedResponse", "expected_response"]

_STAGES: dict[int, Stage] = {
    pb.ATTN_WEIGHTS_STAGE_SCORES: "scores",
    pb.ATTN_WEIGHTS_STAGE_MASKED: "masked",
}


@dataclass(frozen=True, slots=True)
class ExpectedResponse:
    """What a reply is read with: facts of its call that it does not repeat."""

    selection: Weights
    """Of tuples."""
    batch_size: int
    q_seq_len: int
    kv_seq_len: int
    num_axes: int
    """Of the output, as of the query."""
    num_rows: int
    """Rows of the attention weights, and in blocks of the output too: those selected, or all."""
    is_self_attention: bool
    tensor_names: frozenset[str]
    """Names of the tensors that were asked for."""
    output_bfloat16: np.dtype[Any] | None
    """What BFLOAT16 output becomes; None: float32, as NumPy has no such dtype."""
    weights_bfloat16: np.dtype[Any] | None
    """The same for attention weights."""


def expected_response(
    request: pb.AttendRequest,
    need_weights: bool | Weights,  # noqa: FBT001 - as attend takes it
    *,
    query_shape: tuple[int, ...],
    kv_seq_len: int,
    is_self_attention: bool,
    output_dtypes: tuple[DTypeLike | None, ...],
) -> ExpectedResponse:
    """Note the facts of a call; of its request nothing but the wishes is read.

    ``output_dtypes``: those that decide what bfloat16 output becomes, the first that is NumPy's.
    """
    wanted = request.attn_weights
    dtype = need_weights.dtype if isinstance(need_weights, Weights) else None
    is_wanted = {
        "output": not request.omit_output,
        "attn_weights": request.HasField("attn_weights"),
        "top_keys": wanted.top_k > 0,
    }
    return ExpectedResponse(
        selection=Weights(
            heads=tuple(wanted.heads),
            queries=tuple(wanted.queries),
            top_k=wanted.top_k or None,
            average_heads=wanted.average_heads,
            stage=_STAGES.get(wanted.stage, "weights"),
            dtype=dtype,
        ),
        batch_size=query_shape[0],
        q_seq_len=query_shape[-2],
        kv_seq_len=kv_seq_len,
        num_axes=len(query_shape),
        num_rows=len(wanted.queries) or query_shape[-2],
        is_self_attention=is_self_attention,
        tensor_names=frozenset(name for name, is_expected in is_wanted.items() if is_expected),
        output_bfloat16=_bfloat16_among(*output_dtypes),
        weights_bfloat16=_bfloat16_among(dtype, *output_dtypes),
    )


def _bfloat16_among(*dtypes: object) -> np.dtype[Any] | None:
    """Find ml_dtypes' bfloat16, which this package does not import, among a caller's dtypes."""
    candidates = (np.dtype(dtype) for dtype in dtypes if isinstance(dtype, np.dtype | type))
    return next((dtype for dtype in candidates if dtype.name == "bfloat16"), None)
