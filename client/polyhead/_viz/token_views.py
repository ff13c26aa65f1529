"""Attention weights labelled with tokens: plot and top of results, as pure functions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from polyhead._checks import bad_value, checked_count
from polyhead._viz.special import Special, is_special
from polyhead.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    class _Result(Protocol):
        """The parts of an AttentionResult that are viewed here."""

        @property
        def attn_weights(self) -> NDArray[Any] | None: ...
        @property
        def top_keys(self) -> NDArray[np.int32] | None: ...
        @property
        def selection(self) -> Any: ...  # noqa: ANN401 - Weights; results is above this module
        @property
        def heads(self) -> tuple[int, ...]: ...
        @property
        def queries(self) -> tuple[int, ...]: ...
        @property
        def q_seq_len(self) -> int: ...
        @property
        def kv_seq_len(self) -> int: ...
        @property
        def is_self_attention(self) -> bool: ...


__all__ = ["HeatGrid", "heat_grid", "top"]

_LABELS = {
    "weights": "attention weight",
    "scores": "attention score",
    "masked": "masked attention score",
}
_MAX_LISTED = 12  # tokens or indices in a message


@dataclass(frozen=True, slots=True, eq=False)
class HeatGrid:
    """The heat maps of one sequence, one for each head, and their labels."""

    weights: NDArray[np.float64]
    """(heads, queries, keys); NaN if a key is not among its row's top_k."""
    titles: list[str]
    queries: list[str]
    keys: list[str]
    """The keys' tokens; with top_k, of the keys that are among some row's top_k."""
    key_places: list[int]
    """Where these keys are in their sequence."""
    stage: str
    """``weights``, ``scores`` or ``masked``."""
    is_top: bool
    """Whether only the largest weights of each row are known."""
    notes: list[str]
    """Notes on the weights that a picture does not show."""

    @property
    def label(self) -> str:
        """The name of the numbers, such as "attention weight"."""
        return _LABELS[self.stage]

    @property
    def is_diverging(self) -> bool:
        """Whether the numbers are on both sides of 0."""
        return self.stage != "weights"

    @property
    def numbered_keys(self) -> list[str]:
        """The keys' tokens, with their place where a token occurs more than once."""
        counts = Counter(self.keys)
        return [
            f"{key} ({place})" if counts[key] > 1 and key != str(place) else key
            for key, place in zip(self.keys, self.key_places, strict=True)
        ]


def heat_grid(
    result: _Result,
    tokens: Sequence[str] | None,
    *,
    head: int | None,
    batch: int,
    key_tokens: Sequence[str] | None,
    hide_special: bool = False,
    special: Special | None = None,
) -> HeatGrid:
    """Lay out the heat maps of AttentionResult.plot, which documents arguments and errors.

    ``special``: the special queries and keys; if None, recognise them by their spelling.
    """
    query_words, key_words = _words(result, tokens, key_tokens)
    weights, places = _heads_of(result, head, batch)
    queries, keys = np.array(result.queries), np.arange(result.kv_seq_len)
    if result.top_keys is not None:
        top_keys = result.top_keys[batch, places]
        keys = np.unique(top_keys)
        everything = np.full((*weights.shape[:2], len(keys)), np.nan)
        np.put_along_axis(everything, np.searchsorted(keys, top_keys), weights, axis=2)
        weights = everything
    notes = []
    if hide_special:
        special = special or _spelled_special(tokens, query_words, key_words)
        visible = (
            _without_special("queries", queries, special.queries),
            _without_special("keys", keys, special.keys),
        )
        weights = weights[:, visible[0]][:, :, visible[1]]
        queries, keys = queries[visible[0]], keys[visible[1]]
        notes.append("special tokens are hidden; the weights are as they were")
    return HeatGrid(
        weights=weights,
        titles=_titles(result, places),
        queries=[query_words[query] for query in queries.tolist()],
        keys=[key_words[key] for key in keys.tolist()],
        key_places=keys.tolist(),
        stage=result.selection.stage,
        is_top=result.top_keys is not None,
        notes=notes,
    )


def _spelled_special(
    tokens: Sequence[str] | None, queries: Sequence[str], keys: Sequence[str]
) -> Special:
    if tokens is None:
        raise bad_value(
            "hide_special", "expected `tokens` too, because their spelling shows which are special"
        )
    return Special([is_special(token) for token in queries], [is_special(token) for token in keys])


def _without_special(
    name: str, places: NDArray[np.intp], special: Sequence[bool]
) -> NDArray[np.intp]:
    """Return the indices of places that are not those of special tokens."""
    visible = np.flatnonzero(~np.array(special)[places])
    if not visible.size:
        raise bad_value("hide_special", f"all {name} of these weights are special tokens")
    return visible


def top(
    result: _Result,
    tokens: Sequence[str] | None,
    word: str | int,
    *,
    k: int | None,
    head: int | None,
    batch: int,
    key_tokens: Sequence[str] | None,
    word_places: Sequence[int] = (),
) -> list[tuple[str, float]]:
    """Return the keys of AttentionResult.top, which documents arguments and errors.

    ``word_places``: the queries that `word` stands for, if they are known.
    """
    query_words, key_words = _words(result, tokens, key_tokens)
    weights, places = _heads_of(result, head, batch)
    row = result.queries.index(_find(word, query_words, result.queries, word_places))
    if result.top_keys is None:
        means = weights[:, row].mean(axis=0)
        candidates = np.arange(len(means))
    else:
        if len(places) > 1 and result.selection.stage != "weights":
            raise bad_value(
                "head",
                f"with top_k, {result.selection.stage!r} of several heads have no mean: expected "
                f"one of {result.heads}; or ask with Weights(average_heads=True)",
            )
        top_keys = result.top_keys[batch, places, row]
        candidates, order = np.unique(top_keys, return_inverse=True)
        means = np.zeros(len(candidates))
        np.add.at(means, order.reshape(-1), weights[:, row].reshape(-1) / len(places))
    count = checked_count("k", k, "all")
    largest = np.argsort(-means, kind="stable")[: count or None]
    return [(key_words[candidates[place]], float(means[place])) for place in largest]


def _words(
    result: _Result, tokens: Sequence[str] | None, key_tokens: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Return the tokens of all queries and of all keys of the request."""
    queries = _checked_tokens("tokens", tokens, result.q_seq_len, "query")
    if key_tokens is None and result.is_self_attention:
        return queries, queries
    return queries, _checked_tokens("key_tokens", key_tokens, result.kv_seq_len, "key")


def _checked_tokens(
    name: str, tokens: Sequence[str] | None, seq_len: int, sequence: str
) -> list[str]:
    if tokens is None:
        return [str(position) for position in range(seq_len)]
    if isinstance(tokens, str):
        raise bad_value(name, f"expected a sequence of tokens; got one str: {tokens!r}")
    if len(tokens) != seq_len:
        raise bad_value(
            name,
            f"expected {seq_len} tokens, as long as {sequence} (padding and special tokens "
            f"included); got {len(tokens)}",
        )
    return [str(token) for token in tokens]


def _heads_of(
    result: _Result, head: int | None, batch: int
) -> tuple[NDArray[np.float64], list[int]]:
    """Return one sequence's weights, (heads, queries, keys), and the indices of these heads."""
    weights = result.attn_weights
    if weights is None:
        raise InvalidArgumentError(
            "this result has no attention weights: ask for them with need_weights=True, or "
            "need_weights=Weights(...) for some",
            code="INVALID_ARGUMENT",
            reason="INVALID_VALUE",
        )
    if not 0 <= batch < len(weights):
        raise bad_value("batch", f"expected 0 to below {len(weights)} sequences; got {batch}")
    places = list(range(weights.shape[1]))
    if head is not None:
        if result.selection.average_heads:
            raise bad_value("head", f"these weights are the mean over heads; got {head}: leave out")
        if head not in result.heads:
            raise bad_value("head", f"expected one of {_listed(result.heads)}; got {head!r}")
        places = [result.heads.index(head)]
    return weights[batch, places].astype(np.float64), places


def _titles(result: _Result, places: Sequence[int]) -> list[str]:
    if not result.selection.average_heads:
        return [f"head {result.heads[place]}" for place in places]
    averaged = result.selection.heads
    assert not isinstance(averaged, int)  # a tuple, as AttentionResult says
    return [f"mean of heads {_listed(averaged)}" if averaged else "mean of all heads"]


def _find(
    word: str | int, words: Sequence[str], queries: Sequence[int], places: Sequence[int]
) -> int:
    """Return the query that a token or an index stands for. It must have weights."""
    matches = list(places)
    if isinstance(word, int | np.integer) and not isinstance(word, bool):
        matches = [int(word)] if 0 <= word < len(words) else []
    elif not matches:
        matches = [place for place, token in enumerate(words) if token == word]
        matches = matches or [place for place, token in enumerate(words) if _bare(token) == word]
    if not matches:
        raise bad_value("word", _unknown(word, words))
    if not (selected := [place for place in matches if place in queries]):
        raise bad_value(
            "word",
            f"{word!r} is query {_listed(matches)}, and these weights are of {_listed(queries)}: "
            f"ask with need_weights=Weights(queries={matches[0]})",
        )
    if len(selected) > 1:
        raise bad_value(
            "word", f"{word!r} occurs at {_listed(selected)}: give one of these indices instead"
        )
    return selected[0]


def _bare(token: str) -> str:
    """Remove the marks that GPT-2's, SentencePiece's and BERT's tokenizers put before a token."""
    return token.removeprefix("##").lstrip("Ġ▁ ")


def _unknown(word: object, words: Sequence[str]) -> str:
    if not isinstance(word, str):
        return f"expected a token, or an index from 0 to below {len(words)}; got {word!r}"
    candidates = get_close_matches(word, words, cutoff=0.5) or list(dict.fromkeys(words))
    return f"expected one of the tokens, such as {_listed(candidates)}; got {word!r}"


def _listed(items: Sequence[Any]) -> str:
    text = ", ".join(repr(item) for item in items[:_MAX_LISTED])
    return text if len(items) <= _MAX_LISTED else f"{text}, ... ({len(items)} in all)"
