"""What a call says about its response and the response does not repeat."""

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
    """What the response to a call must contain, and how the client returns it."""

    selection: Weights
    """The attention weights that were asked for; heads and queries are tuples."""
    batch_size: int
    q_seq_len: int
    kv_seq_len: int
    num_axes: int
    """Number of axes of the output, which is that of the query."""
    num_rows: int
    """Query rows of the attention weights, and of the output if it comes in blocks."""
    is_self_attention: bool
    tensor_names: frozenset[str]
    """Names of the tensors that were asked for."""
    output_bfloat16: np.dtype[Any] | None
    """The dtype that BFLOAT16 output is returned as; None: float32, as NumPy has no bfloat16."""
    weights_bfloat16: np.dtype[Any] | None
    """The dtype that BFLOAT16 attention weights are returned as; None: float32."""
    vectors: ExpectedVectors | None = None
    """The vectors of heads that were asked for."""


@dataclass(frozen=True, slots=True)
class ExpectedVectors:
    """The vectors of heads that a response must contain."""

    selection: Vectors
    """Which of them; kinds, heads, queries and keys are tuples."""
    bfloat16: np.dtype[Any] | None
    """The dtype that BFLOAT16 vectors are returned as; None: float32."""


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
    """Make the ExpectedResponse of a request, which is read for what it asks for.

    ``output_dtypes``: the caller's dtypes; the first NumPy bfloat16 among them is used for output.
    """
    selection = Weights()
    if not isinstance(need_weights, bool):
        selection = Weights(**need_weights._asdict() | {"top_k": need_weights.top_k or None})
    is_wanted = {
        "output": not request.omit_output,
        "attn_weights": request.HasField("attn_weights"),
        "top_keys": selection.top_k is not None,
    }
    vectors = None
    if head_vectors is not None:
        wanted = head_vectors.selection()
        vectors = ExpectedVectors(wanted, bfloat16_among(wanted.dtype, *output_dtypes))
    return ExpectedResponse(
        selection=selection,
        batch_size=query_shape[0],
        q_seq_len=query_shape[-2],
        kv_seq_len=kv_seq_len,
        num_axes=len(query_shape),
        num_rows=len(request.attn_weights.queries) or query_shape[-2],
        is_self_attention=is_self_attention,
        tensor_names=frozenset(name for name, wanted in is_wanted.items() if wanted),
        output_bfloat16=bfloat16_among(*output_dtypes),
        weights_bfloat16=bfloat16_among(selection.dtype, *output_dtypes),
        vectors=vectors,
    )


def bfloat16_among(*dtypes: object) -> np.dtype[Any] | None:
    """Find ml_dtypes' bfloat16, which this package does not import, among a caller's dtypes."""
    candidates = (np.dtype(dtype) for dtype in dtypes if isinstance(dtype, np.dtype | type))
    return next((dtype for dtype in candidates if dtype.name == "bfloat16"), None)
