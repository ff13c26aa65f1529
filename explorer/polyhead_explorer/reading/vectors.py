"""The vectors of one row of one head: what the server can give of them.

No call returns a head's queries, keys or values. But a token that attends to itself alone has the
weight 1, so the attention block's output is then its value, projected to the output. If all other
heads may attend to nothing, it is this head's value alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from polyhead import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_explorer.reading.reading import Reading

__all__ = ["HeadValues", "head_values", "why_no_values"]

_TOLERANCE = 1e-3
"""How far scores may be apart, relative to the largest, for their inputs to be the same."""


@dataclass(frozen=True, slots=True)
class HeadValues:
    """One head's values, and what one token gets of them, as the server computes it."""

    values: NDArray[np.float32]
    """(num_tokens, output width): each token's value, projected to the output."""
    weighted: NDArray[np.float32]
    """(num_tokens, output width): the same, times its weight."""
    output: NDArray[np.float32]
    """(output width): what the head adds to the token."""
    all_heads: NDArray[np.float32]
    """(output width): the same of all heads together."""
    bias: NDArray[np.float32]
    """(output width): what the block adds to every token. The others are without it."""

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return all of them by name: (vectors, output width)."""
        return {field.name: np.atleast_2d(getattr(self, field.name)) for field in fields(self)}


async def why_no_values(reading: Reading, layer: int, head: int, query: int) -> str:
    """Say why a layer's values cannot be had; "": they can. Raises PolyheadError.

    What enters a layer enters its attention only where no norm stands between. That is so if the
    scores of the two are the same.
    """
    if reading.spec(layer).has_sinks:
        return (
            "This model's heads have sinks: a token that attends to itself alone does not have "
            "the weight 1 here, and so its value is not known."
        )
    wanted = Weights(heads=head, queries=query, stage="scores")
    expected = await reading.weights(layer, wanted)
    states = await reading.states(layer)
    alone = await reading.attend(layer, states[None], need_weights=wanted, need_output=False)
    assert alone.attn_weights is not None
    difference = np.abs(alone.attn_weights[0] - expected).max()
    if difference <= _TOLERANCE * max(np.abs(expected).max(), 1.0):
        return ""
    return (
        "In this model a norm stands before the attention, and the server does not give what the "
        "norm makes of these numbers. So the values that they become are not known."
    )


async def head_values(reading: Reading, layer: int, head: int, query: int) -> HeadValues:
    """Have a head's values computed. Raises PolyheadError. Requires that why_no_values is ""."""
    wanted = Weights(heads=head, queries=query)
    weights = (await reading.weights(layer, wanted))[0, 0]
    states = await reading.states(layer)
    num_heads = reading.layers[layer].num_heads
    alone = np.zeros((len(states) + 1, num_heads, 1, 1), np.bool_)
    alone[:-1, head] = True  # the last sequence: no head attends to anything, so only the bias
    sequences = np.concatenate([states, states[:1]])[:, None]
    values = (await reading.attend(layer, sequences, attn_mask=alone)).output
    this_head = np.zeros((1, num_heads, 1, 1), np.bool_)
    this_head[:, head] = True
    output = (await reading.attend(layer, states[None], attn_mask=this_head)).output
    all_heads = (await reading.attend(layer, states[None])).output
    assert values is not None
    assert output is not None
    assert all_heads is not None
    bias = values[-1, 0].astype(np.float32)
    unbiased = values[:-1, 0] - bias
    return HeadValues(
        unbiased,
        unbiased * weights[:, None],
        output[0, query] - bias,
        all_heads[0, query] - bias,
        bias,
    )
