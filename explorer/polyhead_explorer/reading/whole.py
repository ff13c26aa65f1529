"""A text in a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead_explorer.reading.reading import Layer, tokens_of

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
    from polyhead.types import LayerKey
    from polyhead_explorer.reading.reading import Grid, Token

__all__ = ["WholeReading", "has_one_stack", "layer_key", "text_stack"]

MAX_BYTES = 256 << 20


def text_stack(model: ModelInfo) -> StackSpec | None:
    """Return the stack that texts enter; None if there is none."""
    if model.whole is None or not model.whole.has_tokenizer:
        return None
    stacks = model.whole.stacks
    takers = [stack for stack in stacks if stack.input == "token_ids"]
    return takers[0] if takers and (takers[0] is stacks[0] or takers[0].name == "text") else None


class WholeReading:
    """A text, or what another stack takes, in a whole model, which runs layer by layer.

    What enters each layer is kept, so that a call about one layer runs that layer alone.
    """

    is_cut = False
    picture: Grid | None = None
    dimensions: tuple[str, ...] = ()

    def __init__(
        self,
        client: AsyncClient,
        model: ModelInfo,
        stack: StackSpec,
        *,
        tokens: tuple[Token, ...],
        states: NDArray[Any],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """``states``: what enters the first layer, (1, num_tokens, width).

        ``max_bytes``: most hidden states that are kept; further ones are computed each time.
        """
        self._client = client
        self._model = model
        self._stack = stack
        self._max_bytes = max_bytes
        self._states = {0: states}
        self.tokens = tokens
        self.layers = tuple(
            Layer(
                str(number) if has_one_stack(model) else f"{stack.name} {number}",
                layer.self_attention.num_heads,
            )
            for number, layer in enumerate(stack.layers)
        )

    @classmethod
    async def begin(
        cls,
        client: AsyncClient,
        model: ModelInfo,
        stack: StackSpec,
        text: str,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> WholeReading:
        """Make tokens of a text and embed them; no layer runs. Raises PolyheadError."""
        key = layer_key(model, stack, 0)
        first = await client.forward(
            text,
            model=model.name,
            version=model.version,
            truncate=True,
            need_hidden_states=key,
            need_output=False,
        )
        tokens = tokens_of(first.texts[0], first.tokens[0], first.token_spans[0])
        states = first.hidden_states[key]
        reading = cls(client, model, stack, tokens=tokens, states=states, max_bytes=max_bytes)
        reading.is_cut = _is_cut(first.texts[0], tokens, stack.trained_length)
        return reading

    @property
    def num_bytes(self) -> int:
        """How much memory it keeps."""
        return sum(states.nbytes for states in self._states.values())

    async def weights(self, layer: int, wanted: Weights) -> NDArray[Any]:
        """Return weights of a layer: (heads, queries, keys) as selected."""
        states = await self._entering(layer)
        key = self._key(layer)
        need_output = layer + 1 not in self._states  # it is kept, and spares a run of the layer
        result = await self._forward(layer, states, {key: wanted}, need_output=need_output)
        weights: NDArray[Any] = result.attn_weights[key][0]
        return weights

    async def states(self, layer: int) -> NDArray[Any]:
        """Return what enters a layer: (num_tokens, width)."""
        states: NDArray[Any] = (await self._entering(layer))[0]
        return states

    def spec(self, layer: int) -> AttentionSpec:
        """Return the mathematics of a layer's self-attention."""
        return self._stack.layers[layer].self_attention

    async def vectors(self, layer: int, wanted: Vectors) -> tuple[HeadVectors, None]:
        """Return vectors of a layer's heads."""
        states, key = await self._entering(layer), self._key(layer)
        result = await self._forward(
            layer, states, {}, head_vectors={key: wanted}, need_output=False
        )
        return result.head_vectors[key], None

    async def _entering(self, layer: int) -> NDArray[Any]:
        """Return what enters a layer, (1, num_tokens, width), from the nearest that is kept."""
        known = max(number for number in self._states if number <= layer)
        states = self._states[known]
        for number in range(known, layer):
            result = await self._forward(number, states, {}, need_output=True)
            assert result.output is not None
            states = result.output
        return states

    async def _forward(
        self,
        layer: int,
        states: NDArray[Any],
        need_weights: dict[LayerKey, bool | Weights],
        *,
        need_output: bool,
        head_vectors: dict[LayerKey, bool | Vectors] | None = None,
    ) -> ForwardResult:
        """Run one layer, and keep what leaves it."""
        result = await self._client.forward(
            hidden_states=states,
            first_layer=self._key(layer),
            last_layer=layer,
            model=self._model.name,
            version=self._model.version,
            need_weights=need_weights,
            head_vectors=head_vectors or {},
            need_output=need_output,
        )
        output = result.output
        if output is not None and self.num_bytes + output.nbytes <= self._max_bytes:
            self._states[layer + 1] = output
        return result

    def _key(self, layer: int) -> LayerKey:
        return layer_key(self._model, self._stack, layer)


def layer_key(model: ModelInfo, stack: StackSpec, layer: int) -> LayerKey:
    """Return what calls name a layer by."""
    return layer if has_one_stack(model) else (stack.name, layer)


def has_one_stack(model: ModelInfo) -> bool:
    """Whether calls name a model's layers by their numbers."""
    return model.whole is not None and len(model.whole.stacks) == 1


def _is_cut(text: str, tokens: tuple[Token, ...], trained_length: int) -> bool:
    """Whether a text goes on before its first or after its last token."""
    if not 0 < trained_length <= len(tokens):
        return False
    spans = [(token.start, token.end) for token in tokens if not token.is_special]
    rest = text[: spans[0][0]] + text[max(end for _, end in spans) :] if spans else text
    return not spans or bool(rest.strip())
