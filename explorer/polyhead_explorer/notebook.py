"""The page of weights that are there already, such as those of a notebook's result."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np

from polyhead.errors import InvalidArgumentError
from polyhead_explorer.offline.answers import About, Answer, with_answers
from polyhead_explorer.offline.shell import page_shell
from polyhead_explorer.reading.catalogue import Entry
from polyhead_explorer.reading.reading import Layer, tokens_of
from polyhead_explorer.web.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["render_page"]

_MAX_BYTES = 24 << 20


def render_page(
    *,
    model: str,
    version: int,
    text: str,
    spellings: Sequence[str],
    spans: Sequence[tuple[int, int]],
    layers: Mapping[str, NDArray[Any]],
) -> str:
    """Return the page of one text as HTML that works without a server.

    ``spellings``, ``spans``: of the text's tokens, as ForwardResult has them.
    ``layers``: the weights of each layer by its name, (num_heads, num_tokens, num_tokens). Those
    that come first are kept, as far as 24 MiB of float16 go.

    Raises InvalidArgumentError if not even the first layer is small enough.
    """
    subject = {"model": model, "version": version, "text": text}
    answers: list[Answer] = []
    kept: list[Layer] = []
    left = _MAX_BYTES
    for name, weights in layers.items():
        halves = np.asarray(weights, np.float16)
        if halves.nbytes > left:
            break
        left -= halves.nbytes
        body = {**subject, "layer": len(kept)}
        answers.append(Answer("weights", body, encode_frame({}, weights=halves)))
        kept.append(Layer(name, len(weights)))
    if not kept:
        raise InvalidArgumentError(
            f"the weights of a layer take more than {_MAX_BYTES >> 20} MiB as float16: expected a "
            "shorter text, or polyhead explore, which fetches what it shows",
            code="INVALID_ARGUMENT",
            reason="INVALID_VALUE",
        )
    reading = {
        "tokens": [
            {**asdict(token), "is_special": token.is_special}
            for token in tokens_of(text, spellings, spans)
        ],
        "layers": [asdict(layer) for layer in kept],
        "is_causal": False,
        "is_cut": False,
    }
    answers.append(Answer("reading", subject, encode_frame(reading)))
    title = f"{len(kept)} layers" if len(kept) > 1 else "1 layer"
    entry = Entry(model, version, title, "", len(kept), kept[0].num_heads)
    answers.append(Answer("models", None, encode_frame({"models": [entry.to_json()]})))
    left_out = [name for name in layers if name not in {layer.name for layer in kept}]
    missing = f"Layers {', '.join(left_out)} are left out: they are too large." if left_out else ""
    about = About(
        hash=f"#{urlencode({'model': model, 'text': text})}",
        made=f"The result of a call, model {model}.",
        missing=missing,
        texts=[text],
        endpoints=sorted({answer.name for answer in answers}),
    )
    return with_answers(page_shell(), about, answers)
