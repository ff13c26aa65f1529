"""Take one sequence's attention weights in one layer out of a ForwardResult, without padding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polyhead._checks import bad_value
from polyhead._viz.special import Special
from polyhead.results.attention import AttentionResult
from polyhead.words import last_tokens_in_texts, spans_by_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead.results.forward import ForwardResult, LayerKey


class SequenceWeights(NamedTuple):
    """One sequence's attention weights in one layer."""

    result: AttentionResult
    """The weights as a batch of one sequence, without padding."""
    tokens: list[str] | None
    """The tokens of the queries; None if they are not known."""
    key_tokens: list[str] | None
    """The tokens of the keys, if keys and queries differ; None if they are not known."""
    has_text: bool
    """Whether the queries' tokens are those of the text that was sent."""
    special: Special | None
    """The special tokens, if all tokens are the text's; if None, recognise them by their
    spelling."""


def sequence_of(
    result: ForwardResult,
    layer: LayerKey | None,
    batch: int,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
) -> SequenceWeights:
    """Take one sequence's weights in one layer out of a result. Raises InvalidArgumentError."""
    key = checked_layer(result, layer)
    weights = result.attn_weights[key]
    if not 0 <= batch < len(weights):
        raise bad_value("batch", f"expected 0 to below {len(weights)} sequences; got {batch}")
    stack = key[0] if isinstance(key, tuple) else ""
    is_cross, has_text = stack == "cross", _has_text(result, stack)
    q_seq_len, kv_seq_len = _lengths(result, stack, batch)
    rows = result.queries[key][batch]
    places = np.flatnonzero(rows < q_seq_len)
    if not places.size:
        raise bad_value("batch", f"sequence {batch} has none of the queries that were selected")
    selected = (slice(batch, batch + 1), slice(None), places, slice(0, kv_seq_len))
    top_keys = result.top_keys.get(key)
    weights_of_sequence = AttentionResult(
        output=None,
        attn_weights=weights[selected],
        top_keys=None if top_keys is None else top_keys[selected],
        selection=replace(result.selections[key], queries=tuple(rows[places].tolist())),
        q_seq_len=q_seq_len,
        kv_seq_len=kv_seq_len,
        is_self_attention=not is_cross,
        request_id=result.request_id,
        execution=result.execution,
    )
    special = None
    if tokens is None and key_tokens is None and has_text:
        in_text = [begin == end for begin, end in result.token_spans[batch]]
        special = Special(in_text, in_text)
    if tokens is None and has_text:
        tokens = result.tokens[batch]
    if key_tokens is None and is_cross and result.tokens:
        key_tokens = result.tokens[batch]
    return SequenceWeights(
        weights_of_sequence,
        None if tokens is None else list(tokens),
        None if key_tokens is None else list(key_tokens),
        has_text,
        special,
    )


def checked_layer(result: ForwardResult, layer: LayerKey | None) -> LayerKey:
    """Return a layer of the result; None stands for its only layer."""
    layers = list(result.attn_weights)
    if not layers:
        raise bad_value(
            "layer",
            "this result has no attention weights: ask for them with need_weights=True, or "
            "need_weights={layer: True} for some",
        )
    if layer is None and len(layers) == 1:
        return layers[0]
    if layer not in layers:
        raise bad_value("layer", f"expected one of {', '.join(map(repr, layers))}; got {layer!r}")
    assert layer is not None  # as None is not among them
    return layer


def places_of(result: ForwardResult, word: str | int, batch: int) -> list[int]:
    """Return the index of a word's last token in a text, for each occurrence of the word."""
    if not isinstance(word, str) or not result.texts or not word:
        return []
    texts = texts_of(result, batch)
    spans = [result.token_spans[batch]]
    if len(texts) > 1:
        spans = spans_by_text(spans[0], result.token_texts[batch], len(texts))
    return last_tokens_in_texts(word, texts, spans)


def texts_of(result: ForwardResult, batch: int) -> list[str]:
    """Return the text that a sequence was made of, and its second text if it has one."""
    return [each[batch] for each in (result.texts, result.text_pairs) if each]


def _has_text(result: ForwardResult, stack: str) -> bool:
    """Whether the tokens of a stack's queries are those of the texts."""
    is_second = stack in {"decoder", "cross"} and result.decoder_lengths is not None
    return bool(result.tokens) and not is_second


def _lengths(result: ForwardResult, stack: str, batch: int) -> tuple[int, int]:
    """Return the numbers of valid queries and keys of one sequence."""
    queries = keys = result.lengths
    if stack in {"decoder", "cross"} and result.decoder_lengths is not None:
        queries = keys = result.decoder_lengths
    if stack == "cross":
        keys = result.lengths if result.memory_lengths is None else result.memory_lengths
    return int(queries[batch]), int(keys[batch])
