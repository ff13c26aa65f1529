"""Computes the size of a response before the run, and suggests smaller requests that fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from polyhead.wire.tensors import itemsize
from polyhead_server.engine.cost import FLOAT_BYTES
from polyhead_server.errors import InvalidRequestError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import AttentionCall, WeightsSelection

__all__ = ["ResponseSize", "check_response_size", "check_row_of_scores", "rows_in_a_block"]

_OVERHEAD_BYTES = 1024
"""Upper bound of a response's size besides its tensors' elements."""
_INDEX_BYTES = 4
"""Size of a key's index in top_keys."""
_BLOCK_BYTES = 4 << 20
"""Size of a block of rows, unless the caller sets it. Larger blocks are not faster. Smaller blocks
hardly lower the memory of a run."""

_WITHOUT_OUTPUT = "leave the output out (need_output=False, omit_output)"
_MAX_SUGGESTIONS = 3
"""Most suggestions in a refusal, besides its flag; the selections of weights count as one."""


@dataclass(frozen=True, slots=True)
class ResponseSize:
    """The shapes of a response's tensors, and the sizes of their elements."""

    batch_size: int
    q_seq_len: int
    """Number of rows of the output."""
    output_dim: int
    """Width of the output; 0 without output."""
    output_itemsize: int
    """Bytes of one element of the output."""
    heads: int = 0
    """Number of heads of the weights; 0 without weights."""
    queries: int = 0
    keys: int = 0
    weight_itemsize: int = 0
    """Bytes of one weight."""
    has_indices: bool = False
    """Whether the response has the index of each weight's key."""
    num_vector_elements: int = 0
    """Number of elements of the vectors of heads of one sequence."""
    vector_itemsize: int = 0
    """Bytes of one such element."""

    @classmethod
    def of(
        cls, call: AttentionCall, weights: WeightsSelection | None, config: AttentionConfig
    ) -> ResponseSize:
        """Estimate the response to a call. ``weights``: the call's selection, checked."""
        size = cls(
            batch_size=call.batch_size,
            q_seq_len=call.q_seq_len,
            output_dim=config.output_dim if call.need_output else 0,
            output_itemsize=itemsize(call.output_dtype),
        )
        if call.vectors is not None:
            lengths = call.q_seq_len, call.kv_seq_len
            size = replace(
                size,
                num_vector_elements=call.vectors.num_numbers(config, 1, *lengths),
                vector_itemsize=itemsize(call.vectors.dtype or call.output_dtype),
            )
        if weights is None:
            return size
        return replace(
            size,
            heads=1 if weights.average_heads else len(weights.heads) or config.num_heads,
            queries=len(weights.queries) or call.q_seq_len,
            keys=weights.top_k or call.kv_seq_len,
            weight_itemsize=itemsize(weights.dtype or call.output_dtype),
            has_indices=bool(weights.top_k),
        )

    @property
    def nbytes(self) -> int:
        """Upper bound of the size of the response message in bytes."""
        sequence = self.q_seq_len * self.output_dim * self.output_itemsize
        sequence += self.num_vector_elements * self.vector_itemsize
        weights = self.num_weights * self._weight_and_index_itemsize
        return self.batch_size * sequence + weights + _OVERHEAD_BYTES

    @property
    def num_weights(self) -> int:
        """Number of attention weights."""
        return self.batch_size * self.heads * self.queries * self.keys

    @property
    def computed_bytes(self) -> int:
        """Bytes of the response's arrays before they are converted to the requested dtypes."""
        output = self.batch_size * (self.q_seq_len * self.output_dim + self.num_vector_elements)
        return (output + self.num_weights * (1 + self.has_indices)) * FLOAT_BYTES

    @property
    def num_rows(self) -> int:
        """Number of rows that blocks are made of: rows of the weights, or else of the output."""
        return self.queries or self.q_seq_len

    def rows(self, count: int) -> ResponseSize:
        """Return the size of a block of ``count`` rows."""
        return replace(self, q_seq_len=count, queries=count if self.heads else 0)

    @property
    def _weight_and_index_itemsize(self) -> int:
        return self.weight_itemsize + _INDEX_BYTES * self.has_indices

    def max_length(self, axis: str, limit: int) -> int:
        """Return the largest length of an axis in a response of ``limit`` bytes; 0 if none fits."""
        none: dict[str, Any] = {axis: 0}
        one: dict[str, Any] = {axis: 1}
        fixed = replace(self, **none).nbytes
        each = replace(self, **one).nbytes - fixed
        return max(0, limit - fixed) // each if each else 0


def check_response_size(size: ResponseSize, limit: int) -> None:
    """Raise LimitExceededError, with suggestions, if a response is over the limit."""
    if size.nbytes > limit:
        raise _too_large("the response", size, limit, _suggestions(size, limit, by_rows=True))


def rows_in_a_block(size: ResponseSize, requested: int, limit: int) -> int:
    """Return the number of rows of each block. ``requested``: 0 lets the server choose.

    Raises InvalidRequestError for a negative number, and LimitExceededError, with suggestions, if a
    block of this many rows, or even of one row, is over the limit.
    """
    if requested < 0:
        raise InvalidRequestError(
            "rows_per_block", f"expected 0 or more; got {requested}", "OUT_OF_RANGE"
        )
    row = size.rows(1)
    if row.nbytes > limit:
        suggestions = _suggestions(row, limit, by_rows=False)
        raise _too_large("a block of a single row", row, limit, suggestions)
    fitting_rows = _rows_within(size, limit)
    if requested:
        rows = min(requested, size.num_rows)
        if rows > fitting_rows:
            advice = [f"set rows_per_block to at most {fitting_rows}"]
            raise _too_large(f"a block of {rows} rows", size.rows(rows), limit, advice)
        return rows
    return max(1, min(size.num_rows, fitting_rows, _rows_within(size, _BLOCK_BYTES)))


def check_row_of_scores(heads: int, kv_seq_len: int, limit: int) -> None:
    """Raise LimitExceededError if the scores of one query are over the limit.

    Larger score matrices are computed in parts, but a row cannot be divided.
    """
    needed = heads * kv_seq_len * FLOAT_BYTES
    if needed <= limit:
        return
    keys = limit // (heads * FLOAT_BYTES)
    advice = f"send at most {keys} keys"
    if not keys:
        advice = (
            "ask for weights of fewer heads without the output (need_output=False, omit_output)"
        )
    raise LimitExceededError(
        "max_scores_bytes",
        f"the scores of one query take {needed} bytes ({heads} heads, {kv_seq_len} keys), over "
        f"this server's {limit}; {advice}, or raise its --max-scores-bytes",
        "SCORES_TOO_LARGE",
        expected=limit,
        got=needed,
    )


def _rows_within(size: ResponseSize, limit: int) -> int:
    each = size.rows(2).nbytes - size.rows(1).nbytes
    return (limit - _OVERHEAD_BYTES) // each


def _suggestions(size: ResponseSize, limit: int, *, by_rows: bool) -> Iterator[str]:
    """Yield requests that would fit, the most useful first.

    If Python and the contract have different names, both are stated, Python's first.
    """
    selections = [*_selections(size, limit, by_rows=by_rows)]
    if selections:
        yield f"ask for {', or '.join(selections)}"
    if size.num_vector_elements and replace(size, num_vector_elements=0).nbytes <= limit:
        yield "ask for vectors of fewer heads, queries or keys (head_vectors)"
    if by_rows and not size.num_vector_elements and size.rows(1).nbytes <= limit:
        yield "stream it in blocks of rows (attend_rows, AttendRows)"
    alone = replace(size, output_dim=0)
    if size.heads and size.output_dim and alone.nbytes <= limit:
        yield _WITHOUT_OUTPUT
    elif (
        by_rows
        and size.heads
        and not selections
        and (queries := alone.max_length("queries", limit))
    ):
        yield f"{_WITHOUT_OUTPUT} and ask for at most {queries} queries"
    if sequences := size.max_length("batch_size", limit):
        yield f"send at most {sequences} of the {size.batch_size} sequences at a time"
    if replace(size, output_itemsize=2, weight_itemsize=2, vector_itemsize=2).nbytes <= limit:
        yield "ask for float16"


def _selections(size: ResponseSize, limit: int, *, by_rows: bool) -> Iterator[str]:
    """Yield selections of weights that would fit."""
    if not size.heads:
        return
    queries = size.max_length("queries", limit) if by_rows else 0
    if queries:
        yield f"at most {queries} queries"
    if top_k := replace(size, has_indices=True).max_length("keys", limit):
        yield f"top_k of at most {top_k}"
    if size.heads > 1 and replace(size, heads=1).nbytes <= limit:
        yield "average_heads"
    if not queries and (heads := size.max_length("heads", limit)):
        yield f"at most {heads} heads"


def _too_large(
    subject: str, size: ResponseSize, limit: int, suggestions: Iterable[str]
) -> LimitExceededError:
    texts = [*islice(suggestions, _MAX_SUGGESTIONS)] or ["send shorter sequences"]
    return LimitExceededError(
        "max_response_bytes",
        f"{subject} would take {size.nbytes} bytes, over this server's {limit}; "
        f"{'; or '.join(texts)}; or raise its --max-response-bytes",
        "OUTPUT_TOO_LARGE",
        expected=limit,
        got=size.nbytes,
    )
