"""The result of a call of a whole model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from polyhead.results.attention import brief

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from polyhead.results.attention import Execution, Weights
    from polyhead.results.explorer_page import ExplorerPage
    from polyhead.results.vectors import HeadVectors

__all__ = ["ForwardResult", "LayerKey"]

LayerKey: TypeAlias = "int | tuple[str, int]"
"""The name of a layer; layers are counted from 0. In a model of one stack it is the layer's number.
In a model of several stacks it is the stack and the number: ``("encoder", k)``, ``("decoder", k)``,
``("text", k)`` or ``("vision", k)``. ``("cross", k)`` is the cross-attention of a decoder's
layer."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ForwardResult:
    """The result of one call of a whole model.

    Layers have the names that the request gave them. If it requested all layers, their names are
    described at LayerKey.

    seq_len is the length of the `token_ids` or `hidden_states` that were sent, or the number of
    tokens of the longest text. A shorter sequence is padded on the right with 0 (minus infinity in
    weights at the stages before softmax).

    The arrays are read-only. Arrays of 64 KiB and more are views of the server's reply. Each of
    them keeps the whole reply in memory, so copy an array that you keep longer than the others.
    """

    output: NDArray[Any] | None
    """(batch_size, seq_len, output_size): the output of the last layer, after the final norm if
    the model has one. With `last_layer` the final norm is not applied. For an encoder-decoder: the
    decoder's output, or without `decoder_token_ids` the encoder's. None with need_output=False."""
    hidden_states: Mapping[LayerKey, NDArray[Any]]
    """(batch_size, seq_len, hidden_size) by layer: entry k is the input of layer k, and entry
    num_layers the output of the last layer."""
    attn_weights: Mapping[LayerKey, NDArray[Any]]
    """(batch_size, heads, queries, keys) by layer; see AttentionResult.attn_weights."""
    top_keys: Mapping[LayerKey, NDArray[np.int32]]
    """Index of the key of each weight, in the shape of attn_weights, for layers that were
    requested with top_k."""
    queries: Mapping[LayerKey, NDArray[np.int32]]
    """(batch_size, queries) by layer: the query of each entry of axis 2 of attn_weights. It differs
    between texts if words were selected."""
    selections: Mapping[LayerKey, Weights]
    """The requested weights by layer."""
    head_vectors: Mapping[LayerKey, HeadVectors] = field(default_factory=dict)
    """Queries, keys, values and contexts of heads by layer."""
    texts: tuple[str, ...] = ()
    """The texts that were sent."""
    text_pairs: tuple[str, ...] = ()
    """The second text of each text, if they were sent."""
    tokens: list[list[str]]
    """The tokens of each text in the spelling of the model's vocabulary, special tokens included;
    empty if no texts were sent."""
    token_spans: list[list[tuple[int, int]]]
    """Start and end of each token in its text, in characters; equal for special tokens."""
    token_texts: list[list[int]] = field(default_factory=list)
    """The text that each token is from: 0: the text, 1: its second text; 0 for special tokens."""
    token_ids: NDArray[Any] | None
    """(batch_size, seq_len): the ids of the texts' tokens, or the ids that were sent; None without
    both. They can be sent again, with `token_type_ids` and `lengths`."""
    token_type_ids: NDArray[Any] | None = None
    """(batch_size, seq_len): the types that the tokenizer gave the texts' tokens, or the types that
    were sent; None without both."""
    lengths: NDArray[np.int64]
    """(batch_size,): number of valid tokens of each sequence of the first stack that ran."""
    decoder_lengths: NDArray[np.int64] | None = None
    """(batch_size,): number of valid tokens of `decoder_token_ids`, if they were sent."""
    memory_lengths: NDArray[np.int64] | None = None
    """(batch_size,): number of valid tokens of `memory`, if it was sent."""
    layers_run: Mapping[str, range]
    """The layers that ran, by stack. The highest one may have run for its weights only."""
    request_id: str
    """The request's id."""
    execution: Execution
    """How the call was executed."""

    @property
    def attentions(self) -> tuple[NDArray[Any], ...]:
        """The weights of all layers, in order, in the form of transformers' `attentions`.

        Each is (batch_size, num_heads, seq_len, seq_len). Raises InvalidArgumentError if weights
        of more than one stack were requested, or only some weights of a layer.
        """
        from polyhead.results.exchange import attentions

        return attentions(self)

    def bertviz(self, *, batch: int = 0) -> dict[str, Any]:
        """Return one sequence's weights as arguments of BertViz: ``head_view(**result.bertviz())``.

        The arguments are `attention` and `tokens`, or BertViz' arguments for encoder-decoders,
        `sentence_b_start` if a second text was sent, and `include_layers` if not all layers were
        requested. The weights are (1, num_heads, seq_len,
        seq_len), without padding. They are torch's tensors, which BertViz needs, or arrays if torch
        is not installed. Without texts the tokens are positions.
        ``batch``: the index of the sequence in the batch.

        Raises InvalidArgumentError as `attentions` does, but accepts the two stacks of an
        encoder-decoder.
        """
        from polyhead.results.exchange import bertviz

        return bertviz(self, batch)

    def top(
        self,
        word: str | int,
        *,
        layer: LayerKey | None = None,
        k: int | None = 5,
        head: int | None = None,
        batch: int = 0,
        tokens: Sequence[str] | None = None,
        key_tokens: Sequence[str] | None = None,
    ) -> list[tuple[str, float]]:
        """Return the ``k`` keys with the largest weights of one query, largest first.

        ``word``: a word of the text, which stands for its last token; a token; or an index.
        ``layer``: may be left out if weights of one layer were requested.
        ``head``, ``k``: as for AttentionResult.top. ``batch``: the index of the sequence.
        ``tokens``, ``key_tokens``: the tokens of queries and keys; None means the text's tokens, or
        positions without a text.

        Raises InvalidArgumentError for a layer, head or sequence without weights, and for a word
        that is unknown, occurs more than once among the selected queries, or was not selected.
        """
        from polyhead._viz import token_views
        from polyhead.results.sequence import places_of, sequence_of

        sequence = sequence_of(self, layer, batch, tokens, key_tokens)
        return token_views.top(
            sequence.result,
            sequence.tokens,
            word,
            k=k,
            head=head,
            batch=0,
            key_tokens=sequence.key_tokens,
            word_places=places_of(self, word, batch) if sequence.has_text else (),
        )

    def plot(
        self,
        *,
        layer: LayerKey | None = None,
        head: int | None = None,
        layers: bool | Sequence[LayerKey] = False,
        batch: int = 0,
        tokens: Sequence[str] | None = None,
        key_tokens: Sequence[str] | None = None,
        hide_special: bool = False,
        scale: Literal["shared", "head"] = "shared",
    ) -> Figure:
        """Draw one sequence's weights as heat maps: a row for each query, a column for each key.

        The weights of one query, and with top_k of a few queries, are drawn as bars instead: the
        keys with the largest weights, largest first.

        ``layer``: the layer; may be left out if weights of one layer were requested.
        ``layers``: True draws a grid instead: a row for each layer of the result, a column for
        each head, without labels of tokens. A sequence draws these layers.
        ``head``, ``batch``, ``tokens``, ``key_tokens``: as for `top`; head None means all.
        ``hide_special``: whether tokens that are not part of the text, such as ``[CLS]``, are left
        out. The other weights do not change.
        ``scale``: ``"shared"``: a colour means the same weight in all maps; ``"head"``: a colour
        means a share of the largest weight of its map.

        Colours and sizes: as for AttentionResult.plot.
        Notebooks show the figure; ``figure.savefig("weights.png")`` writes it.

        Raises InvalidArgumentError as `top` does; MissingExtraError without matplotlib.
        """
        from polyhead.results import pictures

        look = pictures.Look(hide_special, scale)
        if layers is False:
            return pictures.draw_layer(
                self, layer, look, head=head, batch=batch, tokens=tokens, key_tokens=key_tokens
            )
        return pictures.draw_layers(self, look, layer=layer, layers=layers, head=head, batch=batch)

    def explore(
        self,
        *,
        stack: str | None = None,
        decoder_tokens: Sequence[str] | None = None,
        batch: int = 0,
        height: int = 760,
    ) -> ExplorerPage:
        """Return the explorer's page of one sequence's weights, which notebooks show.

        The page has all layers and heads of which the result has weights, up to 24 MiB of float16.
        It names the layers that are left out. The tokens of a second text have their own part.

        ``stack``: the stack that it shows first, such as ``"decoder"`` or ``"cross"``, if the
        result has weights of several; None means the first. ``decoder_tokens``: the words of the
        decoder's token ids; None means positions. ``batch``: the index of the sequence. ``height``:
        height of the page in a notebook, in pixels. ``.save("attention.html")`` writes it as a file
        that works offline.

        Raises InvalidArgumentError if the result has only some weights of a layer, or if even one
        layer is too large.
        """
        from polyhead.results import notebook

        return notebook.explore_forward(self, stack, decoder_tokens, batch, height)

    def _repr_html_(self) -> str:
        from polyhead.results import notebook

        return notebook.forward_table(self)

    def __repr__(self) -> str:
        shapes = {
            name: "{" + ", ".join(f"{key!r}: {brief(value)}" for key, value in arrays.items()) + "}"
            for name, arrays in (
                ("hidden_states", self.hidden_states),
                ("attn_weights", self.attn_weights),
            )
        }
        return (
            f"ForwardResult(output={brief(self.output)}, "
            f"hidden_states={shapes['hidden_states']}, attn_weights={shapes['attn_weights']}, "
            f"lengths={self.lengths.tolist()}, request_id={self.request_id!r}, "
            f"execution={self.execution!r})"
        )
