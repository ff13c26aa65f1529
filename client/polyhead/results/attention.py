"""What a call of an attention block gives, and which weights it may be asked for."""

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
    """Which attention weights are wanted: what is not selected is not sent.

    The result's axes follow the selections, in the order given. One number selects one, and its
    axis stays, with length 1.
    """

    heads: int | Sequence[int] = ()
    """Indices of heads, each in [0, num_heads), none twice; empty: all."""
    queries: int | str | Sequence[int | str] = ()
    """Indices of query rows, each in [0, q_seq_len), none twice; empty: all. In `forward` of texts
    also words: the row of a word's last token, for each time that the word occurs."""
    top_k: int | None = None
    """Only so many keys of each row: those of the largest weights, largest first, of equal ones
    the first key first; `top_keys` of the result says which. At most kv_seq_len come. None: all
    keys, in their own order."""
    average_heads: bool = False
    """Whether the mean over the heads is wanted, in place of them. It is taken at the stage that
    is wanted, and before top_k."""
    stage: Stage = "weights"
    """``weights``: after softmax. ``scores``: query times key, scaled and soft-capped, before
    masks and biases. ``masked``: with them, minus infinity where a query may not attend."""
    dtype: DTypeLike | None = None
    """Dtype of the weights, such as ``"float16"``; None: that of the output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How a call was executed."""

    model: str
    """Name of the model that ran."""
    model_version: int
    """Its version."""
    provider: str
    """ONNX Runtime's name for what it ran on, such as ``CPUExecutionProvider``."""
    kernel: str
    """What computed the output, beside which selected weights are computed on their own.
    ``fused``: never held a q_seq_len x kv_seq_len matrix, except in models with sinks, and of at
    most 64 tokens; ``explicit``: did, as masks and whole weights need, and in every call without
    output; empty if the server did not say."""
    queue_ms: float
    """Time from the request having been checked to the start of its run; of a block of rows: from
    its turn having been asked for, when the block before it had been written."""
    compute_ms: float
    """Time the run took; of a block of rows: the block's."""
    batch_size: int
    """Number of sequences that ran together: the request's own, and those of others that shared
    its run."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class AttentionResult:
    """What one call of an attention block gave.

    The arrays are read-only. Those of 64 KiB and more are views of the server's reply, and each
    keeps all of it in memory: copy what is to outlive the rest.
    """

    output: NDArray[Any] | None
    """(batch_size, q_seq_len, output_dim): the block's output; (batch_size, num_heads, q_seq_len,
    v_head_dim) if `query` had four axes. None with need_output=False."""
    attn_weights: NDArray[Any] | None
    """(batch_size, heads, queries, kv_seq_len), heads and queries as selected: each row sums to 1
    (less in a model with sinks), or to 0 for a query that may attend to nothing. The heads' axis
    has length 1 with average_heads, the last min(top_k, kv_seq_len) with top_k. None if they were
    not asked for."""
    top_keys: NDArray[np.int32] | None = None
    """Index of the key that each weight is for, in the shape of attn_weights. None without
    top_k."""
    head_vectors: HeadVectors | None = None
    """Queries, keys, values and contexts of heads; None if they were not asked for."""
    selection: Weights = Weights()
    """Which weights were asked for; `heads` and `queries` are tuples here, empty for all."""
    q_seq_len: int
    """Number of queries in the request, whichever were selected."""
    kv_seq_len: int
    """Number of keys in the request."""
    is_self_attention: bool = True
    """Whether the keys are the queries' own sequence, so that the same tokens name both."""
    request_id: str
    """The request's id."""
    execution: Execution
    """How the call was executed."""

    @property
    def heads(self) -> tuple[int, ...]:
        """The head that each place of axis 1 of attn_weights stands for; empty for a mean."""
        if self.attn_weights is None or self.selection.average_heads:
            return ()
        return _all_or(self.selection.heads, self.attn_weights.shape[1])

    @property
    def queries(self) -> tuple[int, ...]:
        """The query that each place of axis 2 of attn_weights stands for."""
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

        One query's weights, and those of a few queries with top_k, are drawn as bars instead: the
        keys with the largest weights, largest first.

        ``tokens``: the words of the queries, and in self-attention of the keys: q_seq_len of
        them, whichever queries were selected; None: positions.
        ``head``: the number of one head, as the model counts them; None: all there are, side by
        side. ``batch``: which sequence of the batch.
        ``key_tokens``: the words of the keys, kv_seq_len of them; None: `tokens` in
        self-attention, positions otherwise.

        ``hide_special``: whether queries and keys that are spelled as special tokens are left
        out, such as ``[CLS]``; the others' weights stay what they are.
        ``scale``: ``"shared"``: a colour is the same weight in all heads; ``"head"``: a colour is
        a share of the largest weight of its head.

        Most weights have colours that differ, and the legend says by which scale. 0 has
        the middle colour at the stages ``scores`` and ``masked``. With top_k the columns are the
        keys that any row has among its top, and the rest is blank. A picture has at most 4000
        pixels a side; where tokens are too many for it, cells show the largest of several weights.
        Notebooks show the figure; ``figure.savefig("weights.png")`` writes it.

        Raises InvalidArgumentError if there are no weights, or none for this head or sequence, if
        the tokens are too many or too few, or if nothing is left to show; MissingExtraError
        without matplotlib.
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
        """Tell what one token looks at: the ``k`` keys of the largest weights, largest first.

        ``word``: a token of ``tokens``, or its index where it occurs more than once. Tokenizers'
        marks of a word's start or continuation may be left out: ``"bank"`` finds ``"Ġbank"``.
        ``head``: the number of one head; None: the mean over those there are. A key outside a
        head's top_k then counts as 0 for that head, so that means of top_k results are lower
        bounds; Weights(average_heads=True) gives exact ones.
        ``k``: None for all keys that there are weights of.
        ``tokens``, ``batch``, ``key_tokens``: as for plot.

        Raises InvalidArgumentError as plot does, and for a word that is unknown, occurs more than
        once among the queries selected, or was not selected.
        """
        from polyhead._viz import token_views

        return token_views.top(
            self, tokens, word, k=k, head=head, batch=batch, key_tokens=key_tokens
        )

    def explore(
        self, tokens: Sequence[str] | None = None, *, batch: int = 0, height: int = 760
    ) -> ExplorerPage:
        """Return the explorer's page of one sequence's weights, which notebooks show.

        ``tokens``: the sequence's words, q_seq_len of them; None: positions.
        ``batch``: which sequence. ``height``: of the page in a notebook, in pixels.
        ``.save("attention.html")`` writes it as a file that works offline.

        Raises InvalidArgumentError unless these are all weights of self-attention, and small
        enough (24 MiB as float16).
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
    """Place of the first of these rows among the rows that were asked for."""
    queries: tuple[int, ...]
    """The query that each of these rows stands for: without a selection, first_row and so on."""
    output: NDArray[Any] | None
    """(batch_size, rows, output_dim), or (batch_size, num_heads, rows, v_head_dim)."""
    attn_weights: NDArray[Any] | None
    """(batch_size, heads, rows, kv_seq_len), or as AttentionResult.attn_weights says."""
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
    chosen = (selected,) if isinstance(selected, int) else tuple(cast("Sequence[int]", selected))
    return chosen or tuple(range(count))


def brief(array: NDArray[Any] | None) -> str:
    """Describe an array by its dtype and shape."""
    return "None" if array is None else f"<{array.dtype} {array.shape}>"
