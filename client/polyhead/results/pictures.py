"""ForwardResult.plot: the heat maps of one layer, and a grid of all layers and heads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from polyhead import viz
from polyhead._checks import bad_value
from polyhead._viz.token_views import heat_grid
from polyhead.results.sequence import checked_layer, sequence_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from polyhead.results.forward import ForwardResult, LayerKey


def draw_layer(
    result: ForwardResult,
    layer: LayerKey | None,
    *,
    head: int | None,
    batch: int,
    tokens: Sequence[str] | None,
    key_tokens: Sequence[str] | None,
) -> Figure:
    """Draw one layer's heat maps, with tokens."""
    viz.require("matplotlib")
    key = checked_layer(result, layer)
    sequence = sequence_of(result, key, batch, tokens, key_tokens)
    grid = heat_grid(
        sequence.result, sequence.tokens, head=head, batch=0, key_tokens=sequence.key_tokens
    )
    return viz.draw_heat_maps(
        grid.weights,
        grid.queries,
        grid.keys,
        titles=grid.titles,
        title=layer_title(key),
        label=grid.label,
    )


def draw_layers(
    result: ForwardResult,
    *,
    layer: LayerKey | None,
    layers: bool | Sequence[LayerKey],
    head: int | None,
    batch: int,
) -> Figure:
    """Draw a grid of small heat maps: a row for each layer, a column for each head.

    ``layers``: True: all that there are weights of.
    """
    viz.require("matplotlib")
    if layer is not None:
        raise bad_value("layer", f"expected layer or layers, not both; got {layer!r}")
    if layers is True:
        layers = list(result.attn_weights)
    elif not isinstance(layers, Iterable):
        raise bad_value("layers", f"expected True, False or a sequence of layers; got {layers!r}")
    rows = {}
    label = ""
    for key in layers or [checked_layer(result, None)]:
        sequence = sequence_of(result, checked_layer(result, key), batch)
        grid = heat_grid(sequence.result, None, head=head, batch=0, key_tokens=None)
        rows[layer_title(key)] = dict(zip(grid.titles, grid.weights, strict=True))
        label = grid.label
    return viz.draw_layer_grid(rows, label=label)


def layer_title(key: LayerKey) -> str:
    """Name a layer: ``layer 3``, or ``decoder layer 3``."""
    return f"{key[0]} layer {key[1]}" if isinstance(key, tuple) else f"layer {key}"
