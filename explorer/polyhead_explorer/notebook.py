"""The page of weights in memory, such as those of a result in a notebook."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlencode

import numpy as np

from polyhead.errors import InvalidArgumentError
from polyhead_explorer.offline.answers import About, Answer, with_answers
from polyhead_explorer.offline.shell import page_shell
from polyhead_explorer.reading.catalogue import ENCODER, Entry
from polyhead_explorer.reading.reading import Layer, tokens_of
from polyhead_explorer.web.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["render_page"]

_MAX_BYTES = 24 << 20
_CROSS = "cross"
_Words: TypeAlias = "tuple[Sequence[str], Sequence[str], Sequence[tuple[int, int]], Sequence[int]]"
"""A text, and its second text if it has one; and of the tokens of both, the spellings, the spans
and the texts' indices, as in ForwardResult. No indices mean that there is one text."""


def render_page(
    *,
    model: str,
    version: int,
    words: _Words,
    layers: Mapping[str, Mapping[str, NDArray[Any]]],
    decoder_words: _Words | None = None,
) -> str:
    """Return the page of a result as HTML that works without a server.

    ``words``: the text, its second text and their tokens; in an encoder-decoder, the encoder's.
    ``decoder_words``: the text and the tokens of the decoder.
    ``layers``: the weights by attention ("encoder", "decoder" or "cross") and by the layer's name,
    each (num_heads, num_tokens, num_keys). The page shows the first attention. It contains the
    first layers whose weights take at most 24 MiB as float16.

    Raises InvalidArgumentError if even the first layer is too large.
    """
    readings = _Readings({"model": model, "version": version}, words, decoder_words)
    for attention, layers_of_attention in layers.items():
        readings.add(attention, layers_of_attention)
    if not readings.attentions:
        raise InvalidArgumentError(
            f"the weights of a layer take more than {_MAX_BYTES >> 20} MiB as float16: expected a "
            "shorter text, or polyhead explore, which fetches only what it shows",
            code="INVALID_ARGUMENT",
            reason="INVALID_VALUE",
        )
    left_out = ", ".join(readings.left_out)
    text, *pairs = words[0]
    state = {"model": model, "text": text}
    if pairs:
        state["textPair"] = pairs[0]
    if decoder_words is not None:
        state |= {"decoderText": decoder_words[0][0], "attention": readings.attentions[0]}
    entry = Entry(
        model,
        version,
        _title(readings.included),
        "",
        len(readings.included),
        readings.included[0].num_heads,
        has_decoder=decoder_words is not None,
        takes_pairs=bool(pairs),
    )
    models = Answer("models", None, encode_frame({"models": [entry.to_json()]}))
    answers = [*readings.answers, models]
    about = About(
        hash=f"#{urlencode(state)}",
        made=f"The result of a call, model {model}.",
        missing=f"Layers {left_out} are left out: they are too large." if left_out else "",
        texts=[text],
        endpoints=sorted({answer.name for answer in answers}),
        attentions=readings.attentions,
    )
    return with_answers(page_shell(), about, answers)


class _Readings:
    """The answers about the texts of a result that fit into the page."""

    def __init__(self, model: dict[str, Any], words: _Words, decoder_words: _Words | None) -> None:
        self._model = model
        self._words = words
        self._decoder_words = decoder_words
        self._free_bytes = _MAX_BYTES
        self.answers: list[Answer] = []
        self.included: list[Layer] = []
        self.left_out: list[str] = []
        self.attentions: list[str] = []

    def subject(self, attention: str) -> dict[str, Any]:
        """Return the fields that name an attention in a question."""
        text, *pairs = self._words[0]
        subject = {**self._model, "text": text}
        if pairs:
            subject["text_pair"] = pairs[0]
        if attention == ENCODER:
            return subject
        assert self._decoder_words is not None
        return {**subject, "attention": attention, "decoder_text": self._decoder_words[0][0]}

    def add(self, attention: str, layers: Mapping[str, NDArray[Any]]) -> None:
        """Add the layers of an attention, up to the first layer that does not fit."""
        subject = self.subject(attention)
        included: list[Layer] = []
        for name, weights in layers.items():
            halves = np.asarray(weights, np.float16)
            if self.left_out or halves.nbytes > self._free_bytes:
                self.left_out.append(name)
                continue
            self._free_bytes -= halves.nbytes
            frame = encode_frame({}, weights=halves)
            self.answers.append(Answer("weights", {**subject, "layer": len(included)}, frame))
            included.append(Layer(name, len(weights)))
        if not included:
            return
        self.included += included
        self.attentions.append(attention)
        encoder_tokens = tokens_of(*self._words)
        tokens = encoder_tokens
        if attention != ENCODER:
            assert self._decoder_words is not None
            tokens = tokens_of(*self._decoder_words)
        reading = {
            "tokens": [token.to_json() for token in tokens],
            "keys": [key.to_json() for key in encoder_tokens] if attention == _CROSS else None,
            "layers": [asdict(layer) for layer in included],
            "is_causal": False,
            "is_cut": False,
        }
        self.answers.append(Answer("reading", subject, encode_frame(reading)))


def _title(layers: list[Layer]) -> str:
    return f"{len(layers)} layers" if len(layers) > 1 else "1 layer"
