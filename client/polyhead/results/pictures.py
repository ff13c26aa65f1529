"""AttentionResult.plot and ForwardResult.plot: heat maps, bars, and a grid of layers and heads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from polyhead import viz
from polyhead._checks import bad_value
from polyhead._viz.sizes import MAX_BAR_CHARTS
from polyhead._viz.token_views import heat_grid
from polyhead.results.sequence import checked_layer, sequence_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from polyhead._viz.token_views import HeatGrid
    from polyhead.results.attention import AttentionResult
    from polyhead.results.forward import ForwardResult, LayerKey

__all__ = ["Look", "draw_attention", "draw_layer", "draw_layers", "layer_grid", "layer_title"]


class Look(NamedTuple):
    """The appearance of a picture; see AttentionResult.plot."""

    hide_special: bool
    scale: viz.Scale


def draw_attention(
    result: AttentionResult,
    tokens: Sequence[str] | None,
    look: Look,
    *,
    head: int | None,
    batch: int,
    key_tokens: Sequence[str] | None,
    layer: LayerKey | None = None,
) -> Figure:
    """Draw a block's weights. ``layer``: the layer of a whole model that they are of."""
    viz.check_scale(look.scale)
    viz.require("matplotlib")
    grid = heat_grid(
        result,
        tokens,
        head=head,
        batch=batch,
        key_tokens=key_tokens,
        hide_special=look.hide_special,
    )
    model = result.execution.model
    title = model if layer is None else f"{model}, {layer_title(layer)}"
    return _draw(grid, title, " ".join(tokens or ()), look)


def draw_layer(
    result: ForwardResult,
    layer: LayerKey | None,
    look: Look,
    *,
    head: int | None,
    batch: int,
    tokens: Sequence[str] | None,
    key_tokens: Sequence[str] | None,
) -> Figure:
    """Draw one layer's weights, with tokens."""
    viz.check_scale(look.scale)
    viz.require("matplotlib")
    key = checked_layer(result, layer)
    grid = layer_grid(
        result,
        key,
        head=head,
        batch=batch,
        tokens=tokens,
        key_tokens=key_tokens,
        hide_special=look.hide_special,
    )
    title = f"{result.execution.model}, {layer_title(key)}"
    return _draw(grid, title, _text(result, batch), look)


def draw_layers(
    result: ForwardResult,
    look: Look,
    *,
    layer: LayerKey | None,
    layers: bool | Sequence[LayerKey],
    head: int | None,
    batch: int,
) -> Figure:
    """Draw a grid of small heat maps: a row for each layer, a column for each head.

    ``layers``: True: all that there are weights of.
    """
    viz.check_scale(look.scale)
    viz.require("matplotlib")
    if layer is not None:
        raise bad_value("layer", f"expected layer or layers, not both; got {layer!r}")
    if layers is True:
        layers = list(result.attn_weights)
    elif not isinstance(layers, Iterable):
        raise bad_value("layers", f"expected True, False or a sequence of layers; got {layers!r}")
    rows = {}
    for key in layers or [checked_layer(result, None)]:
        checked = checked_layer(result, key)
        grid = layer_grid(result, checked, head=head, batch=batch, hide_special=look.hide_special)
        rows[layer_title(key)] = dict(zip(grid.titles, grid.weights, strict=True))
    return viz.draw_layer_grid(
        rows,
        label=grid.label,
        title=result.execution.model,
        text=_text(result, batch),
        notes=grid.notes,
        scale=look.scale,
        is_diverging=grid.is_diverging,
    )


def layer_grid(
    result: ForwardResult,
    layer: LayerKey,
    *,
    head: int | None,
    batch: int,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    hide_special: bool = False,
) -> HeatGrid:
    """Lay out the heat maps of one sequence in one layer."""
    sequence = sequence_of(result, layer, batch, tokens, key_tokens)
    return heat_grid(
        sequence.result,
        sequence.tokens,
        head=head,
        batch=0,
        key_tokens=sequence.key_tokens,
        hide_special=hide_special,
        special=sequence.special,
    )


def layer_title(key: LayerKey) -> str:
    """Name a layer: ``layer 3``, or ``decoder layer 3``."""
    return f"{key[0]} layer {key[1]}" if isinstance(key, tuple) else f"layer {key}"


def _draw(grid: HeatGrid, title: str, text: str, look: Look) -> Figure:
    """Draw a few rows, or rows of which only the largest are known, as bars, others as maps."""
    num_heads, num_queries, _ = grid.weights.shape
    is_ranked = num_queries == 1 or grid.is_top
    if is_ranked and num_heads * num_queries <= MAX_BAR_CHARTS:
        return viz.draw_bars(
            grid.weights,
            grid.queries,
            grid.numbered_keys,
            titles=grid.titles,
            title=title,
            label=grid.label,
            text=text,
            notes=grid.notes,
            scale=look.scale,
            has_rest=grid.stage == "weights" and not grid.is_top,
        )
    return viz.draw_heat_maps(
        grid.weights,
        grid.queries,
        grid.keys,
        titles=grid.titles,
        title=title,
        label=grid.label,
        text=text,
        notes=grid.notes,
        scale=look.scale,
        is_diverging=grid.is_diverging,
    )


def _text(result: ForwardResult, batch: int) -> str:
    return " / ".join(texts_of(result, batch))
