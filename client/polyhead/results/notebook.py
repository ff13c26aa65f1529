"""Results in notebooks: small tables, and the explorer's page inside a frame."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from polyhead._checks import bad_value
from polyhead._html import html_table
from polyhead.errors import MissingExtraError
from polyhead.results.attention import Weights
from polyhead.results.exchange import whole_layers
from polyhead.results.explorer_page import ExplorerPage
from polyhead.results.sequence import sequence_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from polyhead.results.attention import AttentionResult
    from polyhead.results.forward import ForwardResult

__all__ = ["attention_table", "explore_attention", "explore_forward", "forward_table"]

_MAX_TEXT = 80
_OF_DECODERS = ("decoder", "cross")
_Words: TypeAlias = "tuple[Sequence[str], Sequence[str], Sequence[tuple[int, int]], Sequence[int]]"
"""A text, and its second text if it has one; their tokens; where each begins and ends in its text;
and the text that each is from, empty if all are from the first."""


def explore_forward(
    result: ForwardResult,
    stack: str | None,
    decoder_tokens: Sequence[str] | None,
    batch: int,
    height: int,
) -> ExplorerPage:
    """Return the page of ForwardResult.explore, which documents errors."""
    stacks = whole_layers(result)
    stack = next(iter(stacks)) if stack is None else stack
    if stack not in stacks:
        raise bad_value(
            "stack",
            "expected a stack that there are weights of, one of "
            f"{', '.join(map(repr, stacks))}; got {stack!r}",
        )
    layers: dict[str, dict[str, NDArray[Any]]] = {}
    lengths: dict[str, tuple[int, int]] = {}
    for name, keys in {stack: stacks[stack], **stacks}.items():
        attention = name if name in _OF_DECODERS else "encoder"
        layers[attention] = {}
        for number, key in sorted(keys.items()):
            found = sequence_of(result, key, batch).result
            assert found.attn_weights is not None
            layers[attention][f"{name} {number}".lstrip()] = found.attn_weights[0]
            lengths[attention] = found.q_seq_len, found.kv_seq_len
    words: _Words = _positions(lengths.get("encoder", lengths.get("cross", (0, 0)))[1])
    if result.tokens:
        words = (
            texts_of(result, batch),
            result.tokens[batch],
            result.token_spans[batch],
            result.token_texts[batch],
        )
    decoder_words = None
    if own := [lengths[name][0] for name in _OF_DECODERS if name in lengths]:
        decoder_words = _words(decoder_tokens, own[0], "decoder_tokens")
    elif decoder_tokens is not None:
        raise bad_value("decoder_tokens", "this result has no weights of a decoder: leave it out")
    return _page(result, layers, words, height, decoder_words)


def explore_attention(
    result: AttentionResult, tokens: Sequence[str] | None, batch: int, height: int
) -> ExplorerPage:
    """Return the page of AttentionResult.explore, which documents errors."""
    weights = result.attn_weights
    if weights is None:
        raise bad_value(
            "attn_weights", "this result has no attention weights: ask with need_weights=True"
        )
    if not result.is_self_attention or result.selection != Weights(dtype=result.selection.dtype):
        raise bad_value(
            "attn_weights",
            "the explorer shows all rows and heads of self-attention: ask with need_weights=True, "
            "or draw a selection with plot",
        )
    if not 0 <= batch < len(weights):
        raise bad_value("batch", f"expected 0 to below {len(weights)} sequences; got {batch}")
    words = _words(tokens, result.q_seq_len, "tokens")
    return _page(result, {"encoder": {"0": weights[batch]}}, words, height)


def _page(
    result: ForwardResult | AttentionResult,
    layers: Mapping[str, Mapping[str, NDArray[Any]]],
    words: _Words,
    height: int,
    decoder_words: _Words | None = None,
) -> ExplorerPage:
    try:
        # By name, because the client stands below the explorer and may be installed without it.
        render = import_module("polyhead_explorer.notebook").render_page
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"explore() needs {error.name}, which is not installed: pip install 'polyhead[explore]'"
        ) from error
    html = render(
        model=result.execution.model,
        version=result.execution.model_version,
        words=words,
        decoder_words=decoder_words,
        layers=layers,
    )
    return ExplorerPage(html=html, height=height)


def _words(tokens: Sequence[str] | None, length: int, name: str) -> _Words:
    """Return tokens as words of a text; None: positions."""
    if tokens is None:
        return _positions(length)
    if len(tokens) != length:
        raise bad_value(name, f"expected {length} tokens; got {len(tokens)}")
    return _joined(tokens)


def _joined(tokens: Sequence[str]) -> _Words:
    """Return tokens as words of a text."""
    spans, end = [], 0
    for token in tokens:
        spans.append((end, end + len(token)))
        end += len(token) + 1
    return (" ".join(tokens),), list(tokens), spans, ()


def _positions(length: int) -> _Words:
    return _joined([str(position) for position in range(length)])


def forward_table(result: ForwardResult) -> str:
    """Return the HTML of a ForwardResult for notebooks."""
    rows: list[tuple[str, object]] = [
        (f"text {n}", " / ".join(map(_short, texts_of(result, n))))
        for n in range(len(result.texts))
    ]
    rows += [("lengths", ", ".join(map(str, result.lengths)))]
    rows += [("output", _shape(result.output))]
    for name, arrays in (
        ("hidden_states", result.hidden_states),
        ("attn_weights", result.attn_weights),
        ("top_keys", result.top_keys),
    ):
        rows += [(f"{name}[{key!r}]", _shape(array)) for key, array in arrays.items()]
    return html_table([*rows, *_execution(result)], caption="ForwardResult")


def attention_table(result: AttentionResult) -> str:
    """Return the HTML of an AttentionResult for notebooks."""
    arrays = ("output", "attn_weights", "top_keys")
    rows = [(name, _shape(getattr(result, name))) for name in arrays]
    return html_table([*rows, *_execution(result)], caption="AttentionResult")


def _execution(result: ForwardResult | AttentionResult) -> list[tuple[str, str]]:
    execution = result.execution
    rows = [
        ("model", f"{execution.model}, version {execution.model_version}"),
        ("time", f"{execution.compute_ms:.1f} ms, after {execution.queue_ms:.1f} ms in the queue"),
    ]
    return [*rows, ("request_id", result.request_id)] if result.request_id else rows


def _shape(array: NDArray[Any] | None) -> str:
    return "" if array is None else f"{array.dtype} {array.shape}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
