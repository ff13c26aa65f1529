"""The result of a call of an attention block, and the selection of attention weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import DTypeLike, NDArray

    from polyhead.results.explorer_page import ExplorerPage
    from polyhead.results.vectors import HeadVectors

__all__ = ["AttentionResult", "AttentionRows", "Execution", "Stage", "Weights"]

Stage: TypeAlias = Literal["weights", "scores", "masked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A selection of attention weights. Only the selected ones are sent.

    The result's axes follow the selections, in the order given. A single number selects one entry
    of its axis; the axis stays, with length 1.
    """

    heads: int | Sequence[int] = ()
    """Indices of heads, each in [0, num_heads), without repetition; empty means all."""
    queries: int | str | Sequence[int | str] = ()
    """Indices of query rows, each in [0, q_seq_len), without repetition; empty means all. In
    `forward` of texts also words: a word selects the row of its last token, for each occurrence."""
    top_k: int | None = None
    """Number of keys of each row: the ones with the largest weights, largest first; of equal
    weights, the first key first. `top_keys` of the result has their indices. There are at most
    kv_seq_len. None means all keys, in their own order."""
    average_heads: bool = False
    """Whether the weights are averaged over the heads, at the selected stage and before top_k."""
    stage: Stage = "weights"
    """``weights``: after softmax. ``scores``: query times key, scaled and soft-capped, before
    masks and biases. ``masked``: scores after masks and biases, minus infinity where a query may
    not attend."""
    dtype: DTypeLike | None = None
    """Dtype of the weights, such as ``"float16"``; None means that of the output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How a call was executed."""

    model: str
    """Name of the model that ran."""
    model_version: int
    """Its version."""
    provider: str
    """ONNX Runtime's execution provider, such as ``CPUExecutionProvider``."""
    kernel: str
    """The kernel that computed the output. (Selected weights are computed separately.)
    ``fused`` never holds a q_seq_len x kv_seq_len matrix, except in models with sinks, and for at
    most 64 tokens. ``explicit`` holds it; masks, all weights, and calls without output need it.
    Empty if the server did not state it."""
    queue_ms: float
    """Time from the check of the request to the start of its run. For a block of rows: from the
    request for its turn, which follows the writing of the previous block."""
    compute_ms: float
    """Duration of the run; for a block of rows: of the block's run."""
    batch_size: int
    """Number of sequences in the run: those of this request, and of others in the same batch."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class AttentionResult:
    """The result of one call of an attention block.

    The arrays are read-only. Arrays of 64 KiB and more are views of the server's reply. Each of
    them keeps the whole reply in memory, so copy an array that you keep longer than the others.
    """

    output: NDArray[Any] | None
    """(batch_size, q_seq_len, output_dim): the block's output; (batch_size, num_heads, q_seq_len,
    v_head_dim) if `query` had four axes. None with need_output=False."""
    attn_weights: NDArray[Any] | None
    """(batch_size, heads, queries, kv_seq_len), heads and queries as selected: each row sums to 1
    (less in a model with sinks), or to 0 for a query that may attend to nothing. The heads' axis
    has length 1 with average_heads, the last axis min(top_k, kv_seq_len) with top_k. None if they
    were not requested."""
    top_keys: NDArray[np.int32] | None = None
    """Index of the key of each weight, in the shape of attn_weights. None without top_k."""
    head_vectors: HeadVectors | None = None
    """Queries, keys, values and contexts of heads; None if they were not requested."""
    selection: Weights = Weights()
    """The requested weights; `heads` and `queries` are tuples here, empty for all."""
    q_seq_len: int
    """Number of queries in the request, selected or not."""
    kv_seq_len: int
    """Number of keys in the request."""
    is_self_attention: bool = True
    """Whether queries and keys are the same sequence, so that they have the same tokens."""
    request_id: str
    """The request's id."""
    execution: Execution
    """How the call was executed."""

    @property
    def heads(self) -> tuple[int, ...]:
        """The head of each entry of axis 1 of attn_weights; empty for a mean of heads."""
        if self.attn_weights is None or self.selection.average_heads:
            return ()
        return _all_or(self.selection.heads, self.attn_weights.shape[1])

    @property
    def queries(self) -> tuple[int, ...]:
        """The query of each entry of axis 2 of attn_weights."""
        if self.attn_weights is None:
            return ()
        return _all_or(self.selection.queries, self.attn_weights.shape[2])

    def plot(
        self,
        tokens: Sequence[str] | None = None,
        *,
        head: int | None = None,
        batch: int = 0,
        key_tokens: Sequence[str] | None = None,
        hide_special: bool = False,
        scale: Literal["shared", "head"] = "shared",
    ) -> Figure:
        """Draw one sequence's weights as heat maps: a row for each query, a column for each key.

        The weights of one query, and with top_k of a few queries, are drawn as bars instead: the
        keys with the largest weights, largest first.

        ``tokens``: the words of all q_seq_len queries, selected or not, and in self-attention of
        the keys; None means positions.
        ``head``: the model's number of a head; None means all heads of the result, side by side.
        ``batch``: the index of the sequence in the batch.
        ``key_tokens``: the words of all kv_seq_len keys; None means `tokens` in self-attention,
        positions otherwise.

        ``hide_special``: whether special tokens such as ``[CLS]``, which are recognised by their
        spelling, are left out. The other weights do not change.
        ``scale``: ``"shared"``: a colour means the same weight in all heads; ``"head"``: a colour
        means a share of the largest weight of its head.

        The colour scale is chosen so that most weights differ visibly. The legend names it. At
        the stages ``scores`` and ``masked`` 0 has the middle colour. With top_k the columns are
        the keys that are among the top keys of any row, and other cells are blank. A picture has
        at most 4000 pixels a side. If this is too small for all tokens, a cell shows the largest
        of several weights.
        Notebooks show the figure; ``figure.savefig("weights.png")`` writes it.

        Raises InvalidArgumentError if there are no weights, or none of this head or sequence, if
        the number of tokens is wrong, or if nothing remains to be drawn; MissingExtraError without
        matplotlib.
        """
        from polyhead.results import pictures

        look = pictures.Look(hide_special, scale)
        return pictures.draw_attention(
            self, tokens, look, head=head, batch=batch, key_tokens=key_tokens
        )

    def top(
        self,
        tokens: Sequence[str],
        word: str | int,
        *,
        k: int | None = 5,
        head: int | None = None,
        batch: int = 0,
        key_tokens: Sequence[str] | None = None,
    ) -> list[tuple[str, float]]:
        """Return the ``k`` keys with the largest weights of one query, largest first.

        ``word``: a token of ``tokens``, or its index if it occurs more than once. A tokenizer's
        marks of a word's start or continuation may be left out: ``"bank"`` finds ``"Ġbank"``.
        ``head``: the model's number of a head; None means the mean over all heads of the result. In
        this mean a key outside a head's top_k counts as 0, so means of top_k results are lower
        bounds. Weights(average_heads=True) gives exact means.
        ``k``: None for all keys of the result.
        ``tokens``, ``batch``, ``key_tokens``: as for plot.

        Raises InvalidArgumentError as plot does, and for a word that is unknown, occurs more than
        once among the selected queries, or was not selected.
        """
        from polyhead._viz import token_views

        return token_views.top(
            self, tokens, word, k=k, head=head, batch=batch, key_tokens=key_tokens
        )

    def explore(
        self, tokens: Sequence[str] | None = None, *, batch: int = 0, height: int = 760
    ) -> ExplorerPage:
        """Return the explorer's page of one sequence's weights, which notebooks show.

        ``tokens``: the words of all q_seq_len tokens; None means positions.
        ``batch``: the index of the sequence. ``height``: height of the page in a notebook, in
        pixels. ``.save("attention.html")`` writes it as a file that works offline.

        Raises InvalidArgumentError unless the result has all weights of a self-attention, and
        they take at most 24 MiB as float16.
        """
        from polyhead.results import notebook

        return notebook.explore_attention(self, tokens, batch, height)

    def _repr_html_(self) -> str:
        from polyhead.results import notebook

        return notebook.attention_table(self)

    def __repr__(self) -> str:
        return (
            f"AttentionResult(output={brief(self.output)}, "
            f"attn_weights={brief(self.attn_weights)}, top_keys={brief(self.top_keys)}, "
            f"head_vectors={self.head_vectors!r}, request_id={self.request_id!r}, "
            f"execution={self.execution!r})"
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class AttentionRows:
    """A block of query rows of one call. The arrays are read-only."""

    first_row: int
    """Index of the block's first row among the requested rows."""
    queries: tuple[int, ...]
    """The query of each row; without a selection these are first_row, first_row + 1 and so on."""
    output: NDArray[Any] | None
    """(batch_size, rows, output_dim), or (batch_size, num_heads, rows, v_head_dim)."""
    attn_weights: NDArray[Any] | None
    """(batch_size, heads, rows, kv_seq_len); see AttentionResult.attn_weights."""
    top_keys: NDArray[np.int32] | None
    """Index of each weight's key, in the shape of attn_weights. None without top_k."""
    request_id: str
    """The request's id."""
    execution: Execution
    """How this block was executed."""

    def __repr__(self) -> str:
        return (
            f"AttentionRows(first_row={self.first_row}, rows={len(self.queries)}, "
            f"output={brief(self.output)}, attn_weights={brief(self.attn_weights)}, "
            f"top_keys={brief(self.top_keys)}, request_id={self.request_id!r}, "
            f"execution={self.execution!r})"
        )


def _all_or(selected: object, count: int) -> tuple[int, ...]:
    indices = (selected,) if isinstance(selected, int) else tuple(cast("Sequence[int]", selected))
    return indices or tuple(range(count))


def brief(array: NDArray[Any] | None) -> str:
    """Describe an array by its dtype and shape."""
    return "None" if array is None else f"<{array.dtype} {array.shape}>"
