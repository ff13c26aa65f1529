"""The page of weights that are there already, such as those of a notebook's result."""

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

    from polyhead_explorer.reading.reading import Token

__all__ = ["render_page"]

_MAX_BYTES = 24 << 20
_CROSS = "cross"
_Words: TypeAlias = "tuple[str, Sequence[str], Sequence[tuple[int, int]]]"
"""A text, and the spellings and spans of its tokens, as ForwardResult has them."""


def render_page(
    *,
    model: str,
    version: int,
    words: _Words,
    layers: Mapping[str, Mapping[str, NDArray[Any]]],
    decoder_words: _Words | None = None,
) -> str:
    """Return the page of one text, or of two, as HTML that works without a server.

    ``words``: of the text, which an encoder-decoder's encoder reads; ``decoder_words``: of the
    decoder's.
    ``layers``: by the attention they are of ("encoder", "decoder", "cross"; the page shows the
    first) the weights of each layer by its name, (num_heads, num_tokens, num_keys). Those that come
    first are kept, as far as 24 MiB of float16 go.

    Raises InvalidArgumentError if not even the first layer is small enough.
    """
    readings = _Readings({"model": model, "version": version}, words, decoder_words)
    for attention, own in layers.items():
        readings.add(attention, own)
    if not readings.attentions:
        raise InvalidArgumentError(
            f"the weights of a layer take more than {_MAX_BYTES >> 20} MiB as float16: expected a "
            "shorter text, or polyhead explore, which fetches what it shows",
            code="INVALID_ARGUMENT",
            reason="INVALID_VALUE",
        )
    left_out = ", ".join(readings.left_out)
    state = {"model": model, "text": words[0]}
    if decoder_words is not None:
        state |= {"decoderText": decoder_words[0], "attention": readings.attentions[0]}
    has_decoder = decoder_words is not None
    answers = [*readings.answers, _models(model, version, readings.kept, has_decoder=has_decoder)]
    about = About(
        hash=f"#{urlencode(state)}",
        made=f"The result of a call, model {model}.",
        missing=f"Layers {left_out} are left out: they are too large." if left_out else "",
        texts=[words[0]],
        endpoints=sorted({answer.name for answer in answers}),
        attentions=readings.attentions,
    )
    return with_answers(page_shell(), about, answers)


class _Readings:
    """The answers about one text or two, as far as they fit."""

    def __init__(self, model: dict[str, Any], words: _Words, decoder_words: _Words | None) -> None:
        self._model = model
        self._words = words
        self._decoder_words = decoder_words
        self._left = _MAX_BYTES
        self.answers: list[Answer] = []
        self.kept: list[Layer] = []
        self.left_out: list[str] = []
        self.attentions: list[str] = []

    def subject(self, attention: str) -> dict[str, Any]:
        """Return what a question about an attention names."""
        subject = {**self._model, "text": self._words[0]}
        if attention == ENCODER:
            return subject
        assert self._decoder_words is not None
        return {**subject, "attention": attention, "decoder_text": self._decoder_words[0]}

    def add(self, attention: str, layers: Mapping[str, NDArray[Any]]) -> None:
        """Add the layers of an attention, up to the first that does not fit."""
        subject = self.subject(attention)
        kept: list[Layer] = []
        for name, weights in layers.items():
            halves = np.asarray(weights, np.float16)
            if self.left_out or halves.nbytes > self._left:
                self.left_out.append(name)
                continue
            self._left -= halves.nbytes
            frame = encode_frame({}, weights=halves)
            self.answers.append(Answer("weights", {**subject, "layer": len(kept)}, frame))
            kept.append(Layer(name, len(weights)))
        if not kept:
            return
        self.kept += kept
        self.attentions.append(attention)
        encoded = tokens_of(*self._words)
        own = encoded
        if attention != ENCODER:
            assert self._decoder_words is not None
            own = tokens_of(*self._decoder_words)
        reading = {
            "tokens": _described(own),
            "keys": _described(encoded) if attention == _CROSS else None,
            "layers": [asdict(layer) for layer in kept],
            "is_causal": False,
            "is_cut": False,
        }
        self.answers.append(Answer("reading", subject, encode_frame(reading)))


def _described(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    return [{**asdict(token), "is_special": token.is_special} for token in tokens]


def _models(model: str, version: int, layers: list[Layer], *, has_decoder: bool) -> Answer:
    title = f"{len(layers)} layers" if len(layers) > 1 else "1 layer"
    entry = Entry(
        model, version, title, "", len(layers), layers[0].num_heads, has_decoder=has_decoder
    )
    return Answer("models", None, encode_frame({"models": [entry.to_json()]}))
