"""The contents that a call's response must have, and facts that only the request states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.results import Vectors, Weights

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from polyhead._arguments.vectors import CanonicalVectors
    from polyhead._arguments.weights import CanonicalWeights
    from polyhead.v1 import attention_pb2 as pb


@dataclass(frozen=True, slots=True)
class ExpectedResponse:
    """The contents that the response to a call must have, and how the client returns them."""

    selection: Weights
    """The requested attention weights; heads and queries are tuples."""
    batch_size: int
    q_seq_len: int
    kv_seq_len: int
    num_axes: int
    """Number of axes of the output, which is that of the query."""
    num_rows: int
    """Query rows of the attention weights, and of the output if it comes in blocks."""
    is_self_attention: bool
    tensor_names: frozenset[str]
    """Names of the requested tensors."""
    output_bfloat16: np.dtype[Any] | None
    """The dtype of BFLOAT16 output for the caller; None means float32, as NumPy has no bfloat16."""
    weights_bfloat16: np.dtype[Any] | None
    """The dtype of BFLOAT16 attention weights for the caller; None means float32."""
    vectors: ExpectedVectors | None = None
    """The requested vectors of heads."""


@dataclass(frozen=True, slots=True)
class ExpectedVectors:
    """The vectors of heads that a response must contain."""

    selection: Vectors
    """The selected ones; kinds, heads, queries and keys are tuples."""
    bfloat16: np.dtype[Any] | None
    """The dtype of BFLOAT16 vectors for the caller; None means float32."""


def expected_response(
    request: pb.AttendRequest,
    *,
    need_weights: bool | CanonicalWeights,
    head_vectors: CanonicalVectors | None,
    query_shape: tuple[int, ...],
    kv_seq_len: int,
    is_self_attention: bool,
    output_dtypes: tuple[DTypeLike | None, ...],
) -> ExpectedResponse:
    """Make the ExpectedResponse of a request.

    ``output_dtypes``: the caller's dtypes; the first NumPy bfloat16 among them is used for output.
    """
    selection = Weights()
    if not isinstance(need_weights, bool):
        selection = Weights(**need_weights._asdict() | {"top_k": need_weights.top_k or None})
    is_requested = {
        "output": not request.omit_output,
        "attn_weights": request.HasField("attn_weights"),
        "top_keys": selection.top_k is not None,
    }
    vectors = None
    if head_vectors is not None:
        bfloat16 = bfloat16_among(head_vectors.dtype, *output_dtypes)
        vectors = ExpectedVectors(head_vectors.selection(), bfloat16)
    return ExpectedResponse(
        selection=selection,
        batch_size=query_shape[0],
        q_seq_len=query_shape[-2],
        kv_seq_len=kv_seq_len,
        num_axes=len(query_shape),
        num_rows=len(request.attn_weights.queries) or query_shape[-2],
        is_self_attention=is_self_attention,
        tensor_names=frozenset(name for name, requested in is_requested.items() if requested),
        output_bfloat16=bfloat16_among(*output_dtypes),
        weights_bfloat16=bfloat16_among(selection.dtype, *output_dtypes),
        vectors=vectors,
    )


def bfloat16_among(*dtypes: object) -> np.dtype[Any] | None:
    """Return ml_dtypes' bfloat16 if it is among these dtypes. ml_dtypes is not imported here."""
    candidates = (np.dtype(dtype) for dtype in dtypes if isinstance(dtype, np.dtype | type))
    return next((dtype for dtype in candidates if dtype.name == "bfloat16"), None)
