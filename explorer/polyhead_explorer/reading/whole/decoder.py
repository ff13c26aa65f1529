"""A text in the decoder of a model whose encoder has read a text of its own.

The decoder's text becomes tokens in the way in which transformers makes `decoder_input_ids` of
labels: the encoder's tokenizer splits it, and the tokens are shifted right, behind the start token
of the model. If the model states no start token, the last token moves to the front, as in mBART of
transformers. The last token is left out, because the decoder writes it and never reads it. So the
row of a token is the attention of the decoder after this token, when it computes the next one.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_explorer.reading.reading import Token
from polyhead_explorer.reading.whole.stack_run import StackRun
from polyhead_explorer.reading.whole.text import WholeReading, is_cut, text_stack, tokenize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead import AsyncClient, ModelInfo, StackSpec
    from polyhead.types import LayerKey

__all__ = ["decoder_stack", "read_decoder", "shift_right"]

_START = "<start>"
"""The name of a start token that the text does not contain. Models state only its id."""


def decoder_stack(model: ModelInfo) -> StackSpec | None:
    """Return the decoder that attends to the output of the text's stack; None if there is none."""
    encoder = text_stack(model)
    if encoder is None or model.whole is None:
        return None
    decoder = model.whole.stacks[-1]
    if decoder is encoder or decoder.layers[0].cross_attention is None:
        return None
    return decoder


async def read_decoder(
    client: AsyncClient,
    model: ModelInfo,
    text: str,
    decoder_text: str,
    text_pair: str | None = None,
) -> dict[str, WholeReading]:
    """Split the encoder's and the decoder's text into tokens. No layer runs. Raises PolyheadError.

    ``text_pair``: the second text of the encoder.
    Returns the readings "decoder", of the decoder's self-attention, and "cross", of its attention
    to the encoder's tokens. Both share their cached states.
    """
    encoder, decoder = text_stack(model), decoder_stack(model)
    assert encoder is not None
    assert decoder is not None
    read, keys = await tokenize(client, model, encoder, text, text_pair)
    written, decoder_tokens = await tokenize(client, model, encoder, decoder_text)
    assert written.token_ids is not None
    token_ids, tokens = shift_right(
        written.token_ids[0].tolist(), decoder_tokens, decoder.start_token_id
    )
    limit = decoder.trained_length or decoder.max_length or len(tokens)
    is_long = (
        is_cut(read.texts + read.text_pairs, keys, encoder)
        or is_cut(written.texts, decoder_tokens, encoder)
        or len(tokens) > limit
    )
    states = read.hidden_states[(encoder.name, 0)]
    run = _DecoderRun(
        client, model, decoder, StackRun(client, model, encoder, states), token_ids[:limit]
    )
    tokens = tokens[:limit]
    return {
        "decoder": WholeReading(run, tokens, is_cut=is_long),
        "cross": WholeReading(run, tokens, keys, is_cut=is_long),
    }


def shift_right(
    token_ids: list[int], tokens: tuple[Token, ...], start_token_id: int | None
) -> tuple[list[int], tuple[Token, ...]]:
    """Put the start token before a text's tokens, and leave out the last token.

    ``start_token_id``: None means that the last token moves to the front.
    """
    start_id = token_ids[-1] if start_token_id is None else start_token_id
    start = Token(_START, f"id {start_id}", 0, 0)
    if start_id in token_ids:
        start = replace(tokens[token_ids.index(start_id)], start=0, end=0)
    return [start_id, *token_ids[:-1]], (start, *tokens[:-1])


class _DecoderRun(StackRun):
    """The run of a decoder, which runs its encoder first."""

    def __init__(
        self,
        client: AsyncClient,
        model: ModelInfo,
        stack: StackSpec,
        encoder: StackRun,
        token_ids: list[int],
    ) -> None:
        super().__init__(client, model, stack)
        self._encoder = encoder
        self._token_ids = np.array([token_ids])
        self._encoded: NDArray[Any] | None = None
        self._lock = asyncio.Lock()

    @property
    def num_bytes(self) -> int:
        """Number of bytes of cached arrays."""
        encoded = 0 if self._encoded is None else self._encoded.nbytes
        return super().num_bytes + encoded + self._encoder.num_bytes

    async def _embed(self) -> NDArray[Any]:
        """Run the encoder, once for all requests that wait for it, and embed the tokens."""
        async with self._lock:
            if self._encoded is None:
                self._encoded = await self._encoder.output()
        key: LayerKey = (self.stack.name, 0)
        first = await self._client.forward(
            memory=self._encoded,
            decoder_token_ids=self._token_ids,
            model=self._model.name,
            version=self._model.version,
            need_hidden_states=key,
            need_output=False,
        )
        return first.hidden_states[key]

    def _memory(self) -> NDArray[Any] | None:
        return self._encoded
