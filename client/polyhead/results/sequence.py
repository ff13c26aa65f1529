"""One sequence's attention weights in one layer, without padding, and the words of its tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polyhead._checks import bad_value
from polyhead.results.attention import AttentionResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead.results.forward import ForwardResult, LayerKey


class SequenceWeights(NamedTuple):
    """One sequence's attention weights in one layer."""

    result: AttentionResult
    """The weights as those of a batch of one sequence, without padding."""
    tokens: list[str] | None
    """The tokens of the queries; None: they are not known."""
    key_tokens: list[str] | None
    """The tokens of the keys, if they are not the queries; None: they are not known."""
    has_text: bool
    """Whether the queries' tokens are those of the text that was sent."""


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
    is_cross = stack == "cross"
    texts_stack = not is_cross and _has_text(result, stack)
    q_seq_len, kv_seq_len = _lengths(result, key, batch)
    rows = result.queries[key][batch]
    places = np.flatnonzero(rows < q_seq_len)
    if not places.size:
        raise bad_value("batch", f"sequence {batch} has none of the queries that were selected")
    selected = (slice(batch, batch + 1), slice(None), places, slice(0, kv_seq_len))
    top_keys = result.top_keys.get(key)
    own = AttentionResult(
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
    text_tokens = result.tokens[batch] if result.tokens else None
    if tokens is None and texts_stack:
        tokens = text_tokens
    if key_tokens is None and is_cross and _has_text(result, "encoder"):
        key_tokens = text_tokens
    return SequenceWeights(
        own,
        None if tokens is None else list(tokens),
        None if key_tokens is None else list(key_tokens),
        texts_stack,
    )


def checked_layer(result: ForwardResult, layer: LayerKey | None) -> LayerKey:
    """Return a layer that there are weights of; None is the only one."""
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
    """Find the last token of a word of a text, for each time that it occurs."""
    if not isinstance(word, str) or not result.texts or not word:
        return []
    spans, places = result.token_spans[batch], []
    for found in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", result.texts[batch]):
        inside = [
            n for n, (start, end) in enumerate(spans) if start < found.end() and end > found.start()
        ]
        places += inside[-1:]
    return places


def _has_text(result: ForwardResult, stack: str) -> bool:
    """Whether a stack's tokens are those of the texts."""
    return bool(result.tokens) and (
        stack in {"", "encoder", "text"} or (stack == "decoder" and result.decoder_lengths is None)
    )


def _lengths(result: ForwardResult, key: LayerKey, batch: int) -> tuple[int, int]:
    """Return the numbers of valid queries and keys of one sequence."""
    stack = key[0] if isinstance(key, tuple) else ""
    own: NDArray[np.int64] | None = result.lengths
    keys = result.memory_lengths if result.memory_lengths is not None else result.lengths
    if stack in {"decoder", "cross"} and result.decoder_lengths is not None:
        own = result.decoder_lengths
    if stack == "vision" and result.tokens:
        own = None  # all images have equally many patches, and `lengths` are the texts'
    if own is None:
        return _lengths_seen(result, key)
    return int(own[batch]), int((keys if stack == "cross" else own)[batch])


def _lengths_seen(result: ForwardResult, key: LayerKey) -> tuple[int, int]:
    """Return as many queries and keys as the weights are of."""
    num_keys = result.attn_weights[key].shape[3]
    if key in result.top_keys:
        num_keys = int(result.top_keys[key].max()) + 1
    num_queries = max(int(result.queries[key].max()) + 1, num_keys)
    return num_queries, num_queries
