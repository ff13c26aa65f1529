"""Runs a sequence through the layers of a stack, one layer a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead import (
        AsyncClient,
        ForwardResult,
        HeadVectors,
        ModelInfo,
        StackSpec,
        Vectors,
        Weights,
    )
    from polyhead.types import LayerKey

__all__ = ["CROSS", "MAX_BYTES", "StackRun", "has_one_stack", "layer_key"]

MAX_BYTES = 256 << 20
CROSS = "cross"


class StackRun:
    """Caches the hidden states before each layer, so that a call about a layer runs it alone."""

    def __init__(
        self,
        client: AsyncClient,
        model: ModelInfo,
        stack: StackSpec,
        states: NDArray[Any] | None = None,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """``states``: those before the first layer, (1, num_tokens, width); None: see ``_embed``.

        ``max_bytes``: most bytes of cached states. Further ones are computed each time.
        """
        self._client = client
        self._model = model
        self._max_bytes = max_bytes
        self._states = {} if states is None else {0: states}
        self.stack = stack

    @property
    def num_bytes(self) -> int:
        """Number of bytes of cached arrays."""
        return sum(states.nbytes for states in self._states.values())

    @property
    def name(self) -> str:
        """The stack's name; empty if calls name the model's layers by numbers alone."""
        return "" if has_one_stack(self._model) else self.stack.name

    async def weights(
        self, layer: int, selection: Weights, *, is_cross: bool = False
    ) -> NDArray[Any]:
        """Return the selected weights of a layer: (heads, queries, keys)."""
        states = await self.states_before(layer)
        key = self._key(layer, is_cross=is_cross)
        # the output is cached, and saves another run of this layer
        need_output = layer + 1 not in self._states
        result = await self._forward(layer, states, {key: selection}, need_output=need_output)
        weights: NDArray[Any] = result.attn_weights[key][0]
        return weights

    async def vectors(
        self, layer: int, selection: Vectors, *, is_cross: bool = False
    ) -> HeadVectors:
        """Return vectors of a layer's heads."""
        states, key = await self.states_before(layer), self._key(layer, is_cross=is_cross)
        result = await self._forward(
            layer, states, {}, head_vectors={key: selection}, need_output=False
        )
        return result.head_vectors[key]

    async def states_before(self, layer: int) -> NDArray[Any]:
        """Return the states before a layer, (1, num_tokens, width). Raises PolyheadError.

        It runs the layers since the nearest cached states. If ``layer`` is the number of layers,
        they are the states after the last one.
        """
        if not self._states:
            self._states[0] = await self._embed()
        nearest = max(number for number in self._states if number <= layer)
        states = self._states[nearest]
        for number in range(nearest, layer):
            result = await self._forward(number, states, {}, need_output=True)
            assert result.output is not None
            states = result.output
        return states

    async def output(self) -> NDArray[Any]:
        """Return the stack's output, after the final norm: (1, num_tokens, width)."""
        result = await self._client.forward(
            hidden_states=await self.states_before(0),
            first_layer=self._key(0),
            model=self._model.name,
            version=self._model.version,
        )
        assert result.output is not None
        return result.output

    async def _embed(self) -> NDArray[Any]:
        """Return the states before the first layer, if the constructor did not get them."""
        raise NotImplementedError

    def _memory(self) -> NDArray[Any] | None:
        """Return the encoder's output, which the layers of a decoder take; None without encoder."""
        return None

    async def _forward(
        self,
        layer: int,
        states: NDArray[Any],
        need_weights: dict[LayerKey, bool | Weights],
        *,
        need_output: bool,
        head_vectors: dict[LayerKey, bool | Vectors] | None = None,
    ) -> ForwardResult:
        """Run one layer, and cache its output."""
        result = await self._client.forward(
            hidden_states=states,
            first_layer=self._key(layer),
            last_layer=layer,
            memory=self._memory(),
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

    def _key(self, layer: int, *, is_cross: bool = False) -> LayerKey:
        return (CROSS, layer) if is_cross else layer_key(self._model, self.stack, layer)


def layer_key(model: ModelInfo, stack: StackSpec, layer: int) -> LayerKey:
    """Return the key of a layer in calls."""
    return layer if has_one_stack(model) else (stack.name, layer)


def has_one_stack(model: ModelInfo) -> bool:
    """Whether calls name a model's layers by numbers alone."""
    return model.whole is not None and len(model.whole.stacks) == 1
