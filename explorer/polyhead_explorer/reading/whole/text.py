"""The reading of a text or a picture in a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead_explorer.reading.reading import Layer, tokens_of
from polyhead_explorer.reading.whole.stack_run import CROSS, MAX_BYTES, StackRun, layer_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead import (
        AsyncClient,
        AttentionSpec,
        ForwardResult,
        HeadVectors,
        ModelInfo,
        StackSpec,
        Vectors,
        Weights,
    )
    from polyhead_explorer.reading.reading import Grid, Token

__all__ = ["WholeReading", "is_cut", "read_text", "text_stack", "tokenize"]


def text_stack(model: ModelInfo) -> StackSpec | None:
    """Return the stack that takes texts; None if there is none."""
    if model.whole is None or not model.whole.has_tokenizer:
        return None
    stacks = model.whole.stacks
    of_tokens = [stack for stack in stacks if stack.input == "token_ids"]
    if not of_tokens or of_tokens[0].layers[0].cross_attention is not None:
        return None  # a decoder that needs the output of an encoder
    return of_tokens[0] if of_tokens[0] is stacks[0] or of_tokens[0].name == "text" else None


class WholeReading:
    """Tokens that pass through the layers of a stack, and their attention in each layer."""

    dimensions: tuple[str, ...] = ()

    def __init__(
        self,
        run: StackRun,
        tokens: tuple[Token, ...],
        keys: tuple[Token, ...] | None = None,
        *,
        is_cut: bool = False,
        picture: Grid | None = None,
    ) -> None:
        """``keys``: the encoder's tokens, for cross-attention; None means self-attention."""
        self._run = run
        self._is_cross = keys is not None
        self.tokens = tokens
        self.keys = tokens if keys is None else keys
        self.is_cut = is_cut
        self.picture = picture
        name = CROSS if self._is_cross else run.name
        self.layers = tuple(
            Layer(f"{name} {number}".lstrip(), self.spec(number).num_heads)
            for number in range(run.stack.num_layers)
        )

    @property
    def num_bytes(self) -> int:
        """Number of bytes of cached arrays."""
        return self._run.num_bytes

    async def weights(self, layer: int, selection: Weights) -> NDArray[Any]:
        """Return the selected weights of a layer: (heads, queries, keys)."""
        return await self._run.weights(layer, selection, is_cross=self._is_cross)

    async def states(self, layer: int) -> NDArray[Any]:
        """Return the hidden states before a layer: (num_tokens, width)."""
        states: NDArray[Any] = (await self._run.states_before(layer))[0]
        return states

    def spec(self, layer: int) -> AttentionSpec:
        """Return the mathematics of a layer's attention."""
        spec = self._run.stack.layers[layer]
        if not self._is_cross:
            return spec.self_attention
        assert spec.cross_attention is not None
        return spec.cross_attention

    async def vectors(self, layer: int, selection: Vectors) -> tuple[HeadVectors, None]:
        """Return vectors of a layer's heads."""
        return await self._run.vectors(layer, selection, is_cross=self._is_cross), None


async def tokenize(
    client: AsyncClient, model: ModelInfo, stack: StackSpec, text: str, text_pair: str | None = None
) -> tuple[ForwardResult, tuple[Token, ...]]:
    """Split a text into tokens and embed them. No layer runs. Raises PolyheadError.

    ``text_pair``: its second text. Returns the embedded tokens, as hidden states before layer 0.
    """
    result = await client.forward(
        text,
        text_pair=text_pair,
        model=model.name,
        version=model.version,
        truncate=True,
        need_hidden_states=layer_key(model, stack, 0),
        need_output=False,
    )
    texts = (text,) if text_pair is None else (text, text_pair)
    tokens = tokens_of(texts, result.tokens[0], result.token_spans[0], result.token_texts[0])
    return result, tokens


async def read_text(
    client: AsyncClient,
    model: ModelInfo,
    stack: StackSpec,
    text: str,
    text_pair: str | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> WholeReading:
    """Split a text into tokens and embed them. No layer runs. Raises PolyheadError.

    ``text_pair``: its second text; the tokenizer makes one sequence of both.
    """
    first, tokens = await tokenize(client, model, stack, text, text_pair)
    states = first.hidden_states[layer_key(model, stack, 0)]
    run = StackRun(client, model, stack, states, max_bytes=max_bytes)
    return WholeReading(run, tokens, is_cut=is_cut(first.texts + first.text_pairs, tokens, stack))


def is_cut(texts: tuple[str, ...], tokens: tuple[Token, ...], stack: StackSpec) -> bool:
    """Whether a text has more characters before its first or after its last token."""
    if not 0 < stack.trained_length <= len(tokens):
        return False
    for index, text in enumerate(texts):
        own = [token for token in tokens if token.text_index == index and not token.is_special]
        if not own or (text[: own[0].start] + text[max(token.end for token in own) :]).strip():
            return True
    return False
