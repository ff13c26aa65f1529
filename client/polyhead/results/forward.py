"""What a call of a whole model gives."""

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
"""A layer, counted from 0. In a model of one stack: its number. In others: its stack and its
number, ``("encoder", k)``, ``("decoder", k)``, ``("text", k)`` or ``("vision", k)``. The attention
of a decoder's layer to the encoder's output is ``("cross", k)``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ForwardResult:
    """What one call of a whole model gave.

    Layers are named as the request named them, and where it wanted all layers as LayerKey says.

    seq_len is that of `token_ids` or `hidden_states` as sent, or the longest text's number of
    tokens. Where a sequence is shorter, its tokens come first, and what follows is 0 (minus
    infinity in weights at the stages before softmax).

    The arrays are read-only. Those of 64 KiB and more are views of the server's reply, and each
    keeps all of it in memory: copy what is to outlive the rest.
    """

    output: NDArray[Any] | None
    """(batch_size, seq_len, output_size): what leaves the last layer, after the final norm if the
    model has one; with `last_layer` before it. Of an encoder-decoder: the decoder's, or the
    encoder's without `decoder_token_ids`. None with need_output=False."""
    hidden_states: Mapping[LayerKey, NDArray[Any]]
    """(batch_size, seq_len, hidden_size) by layer: k has what enters layer k, and the number of
    layers has what leaves the last one."""
    attn_weights: Mapping[LayerKey, NDArray[Any]]
    """(batch_size, heads, queries, keys) by layer, as AttentionResult.attn_weights."""
    top_keys: Mapping[LayerKey, NDArray[np.int32]]
    """Index of the key that each weight is for, in the shape of attn_weights, for layers that were
    asked for with top_k."""
    queries: Mapping[LayerKey, NDArray[np.int32]]
    """(batch_size, queries) by layer: the query that each place of axis 2 of attn_weights stands
    for. It differs between texts where words were asked for."""
    selections: Mapping[LayerKey, Weights]
    """Which weights of a layer were asked for."""
    head_vectors: Mapping[LayerKey, HeadVectors] = field(default_factory=dict)
    """Queries, keys, values and contexts of heads by layer."""
    texts: tuple[str, ...] = ()
    """The texts that were sent."""
    tokens: list[list[str]]
    """The tokens of each text as the model's vocabulary spells them, special tokens included; empty
    if no texts were sent."""
    token_spans: list[list[tuple[int, int]]]
    """Where each token begins and ends in its text, in characters; equal for special tokens."""
    token_ids: NDArray[Any] | None
    """(batch_size, seq_len): the ids of these tokens, or those that were sent; None without both.
    They can be sent again, with `lengths`."""
    lengths: NDArray[np.int64]
    """(batch_size,): number of tokens of each sequence of the first stack that took part."""
    decoder_lengths: NDArray[np.int64] | None = None
    """(batch_size,): the same of `decoder_token_ids`, if they were sent."""
    memory_lengths: NDArray[np.int64] | None = None
    """(batch_size,): the same of `memory`, if it was sent."""
    layers_run: Mapping[str, range]
    """The layers that ran, by stack. The highest one ran perhaps for its weights only."""
    request_id: str
    """The request's id."""
    execution: Execution
    """How the call was executed."""

    @property
    def attentions(self) -> tuple[NDArray[Any], ...]:
        """All layers' weights in the order of layers, as transformers' output_attentions has them.

        Each is (batch_size, num_heads, seq_len, seq_len). Raises InvalidArgumentError if weights
        of more than one stack were asked for, or not all weights of a layer.
        """
        from polyhead.results.exchange import attentions

        return attentions(self)

    def bertviz(self, *, batch: int = 0) -> dict[str, Any]:
        """Return one sequence's weights as arguments of BertViz: ``head_view(**result.bertviz())``.

        They are `attention` and `tokens`, or those of BertViz for encoder-decoders, and
        `include_layers` if some layers were not asked for. Weights are torch's tensors, which
        BertViz needs, where torch is installed, and arrays otherwise: (1, num_heads, seq_len,
        seq_len), without padding. Sequences without text have positions for tokens.
        ``batch``: which sequence of the batch.

        Raises InvalidArgumentError as `attentions` does, but for the stacks of encoder-decoders.
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
        """Tell what one token looks at: the ``k`` keys of the largest weights, largest first.

        ``word``: a word of the text, which means its last token; a token; or a token's index.
        ``layer``: may be left out if weights of one layer were asked for.
        ``head``, ``k``: as for AttentionResult.top. ``batch``: which sequence of the batch.
        ``tokens``, ``key_tokens``: the tokens of queries and keys where they are not those of the
        text; None: the text's, or else positions.

        Raises InvalidArgumentError for a layer, head or sequence without weights, and for a word
        that is unknown, occurs more than once among the queries selected, or was not selected.
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

        One query's weights, and those of a few queries with top_k, are drawn as bars instead: the
        keys with the largest weights, largest first.

        ``layer``: which layer; may be left out if weights of one were asked for.
        ``layers``: in place of a layer: True for a grid of all layers and heads that there are
        weights of, without labels of tokens: a row for each layer, a column for each head. A
        sequence of layers for these.
        ``head``, ``batch``, ``tokens``, ``key_tokens``: as for `top`; head None is all.
        ``hide_special``: whether tokens that are not part of the text, such as ``[CLS]``, are left
        out; the others' weights stay what they are.
        ``scale``: ``"shared"``: a colour is the same weight in all maps; ``"head"``: a colour is
        a share of the largest weight of its map.

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

        It has all layers and heads that there are weights of, as far as 24 MiB of float16 go;
        what is left out it says itself.
        ``stack``: which one it shows first, such as ``"decoder"`` or ``"cross"``, where there are
        weights of several; None: the first. ``decoder_tokens``: the words of the decoder's token
        ids; None: positions. ``batch``: which sequence. ``height``: of the page in a notebook, in
        pixels. ``.save("attention.html")`` writes it as a file that works offline.

        Raises InvalidArgumentError if there are not all weights of a layer, or if not even one
        layer is small enough.
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
