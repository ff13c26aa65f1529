"""The story of a real checkpoint: which heads attend to the river, and how `bank` changes."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Table

from polyhead_server.demo.heat_maps import HeatMaps
from polyhead_server.demo.readings import Readings
from polyhead_server.demo.served_checkpoint import MODEL_NAME, open_checkpoint, serving
from polyhead_server.demo.words import readable, span

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from polyhead.types import LayerKey
    from polyhead_models.checkpoint.checkpoint import Checkpoint
    from polyhead_server.demo.readings import Head

__all__ = ["heat_maps", "next_commands", "show_checkpoint"]

_NUM_STRONGEST = 5
_NUM_HEAT_MAPS = 4
_MAX_ROWS = 13
"""Of a model with more layers some are shown."""
_CELL_WIDTH, _LAYER_WIDTH = 5, 7
_MAX_BAR_WIDTH = 12
_STRONG, _WEAK = 0.3, 0.1
"""Weights from which a cell is bold, and below which it is dim."""
_MIN_DIFFERENCE = 0.02
"""Smaller differences between cosines are not called a move."""


def show_checkpoint(console: Console, folder: Path, sentence: str) -> Readings:
    """Export and serve a checkpoint's whole model, and show how it reads `bank` in two sentences.

    ``sentence``: the first of them, with the words `bank` and `river`.

    Raises UsageError for a checkpoint or sentence that cannot be shown; PolyheadError if the call
    fails.
    """
    for word in ("bank", "river"):
        span(sentence, word)
    checkpoint = open_checkpoint(folder)
    if checkpoint.warning:
        console.print(f"[yellow]Warning: {escape(checkpoint.warning)}.[/]")
    with serving(checkpoint) as client:
        readings = Readings(client, MODEL_NAME, sentence)
    _show_introduction(console, checkpoint, readings)
    _show_heads(console, readings)
    _show_movement(console, readings)
    return readings


def heat_maps(readings: Readings) -> HeatMaps:
    """Make the heat maps of the heads in which `bank` attends to `river` most."""
    heads = readings.strongest(_NUM_HEAT_MAPS)
    length = readings.result.lengths[0]
    return HeatMaps(
        model=readings.result.execution.model,
        sentence=readings.sentences[0],
        words=[readable(token) for token in readings.result.tokens[0]],
        attn_weights=np.stack(
            [
                readings.result.attn_weights[head.layer][0, head.number, :length, :length]
                for head in heads
            ]
        ),
        names=[f"layer {_number(head.layer)}, head {head.number}" for head in heads],
    )


def next_commands(readings: Readings, folder: Path) -> str:
    """Return the commands with which a user goes on."""
    heads = readings.strongest(_NUM_STRONGEST)
    head = next((head for head in heads if not head.is_positional), heads[0])
    layer = head.layer if isinstance(head.layer, int) else ":".join(map(str, head.layer))
    first = readings.sentences[0]
    bank = first[slice(*span(first, "bank"))]  # as it is spelled there
    checkpoint, sentence = shlex.quote(str(folder)), shlex.quote(first)
    return (
        f"  polyhead export checkpoint {checkpoint} --name bank --out models\n"
        "  polyhead serve --models models\n"
        f"  polyhead forward {sentence} --model bank \\\n"
        f"    --layers {layer} --heads {head.number} --queries {bank} --top-k 5\n"
        f"  polyhead demo --checkpoint {checkpoint} --png bank.png"
    )


def _show_introduction(console: Console, checkpoint: Checkpoint, readings: Readings) -> None:
    num_layers, num_heads = readings.to_river().shape
    execution = readings.result.execution
    first, second = readings.sentences
    _heading(console, f"{checkpoint.name}: {num_layers} layers, {num_heads} heads in each")
    console.print(f"One word in two sentences, sent as text to a {checkpoint.model_type} model:")
    console.print(f"  1  {first}\n  2  {second}", markup=False)
    layers = ", ".join(
        f"{stack} layers {run.start} to {run.stop - 1}"
        for stack, run in readings.result.layers_run.items()
        if run
    )
    console.print(
        f"[dim]A server of its own ran {layers}: {execution.provider}, "
        f"{execution.compute_ms:.1f} ms.[/]"
    )
    for note in readings.notes:
        console.print(f"Note: {note}", markup=False)


def _show_heads(console: Console, readings: Readings) -> None:
    """Show how much `bank` attends to `river` in each head, and the strongest heads."""
    weights, layers = readings.to_river(), list(readings.result.attn_weights)
    _heading(console, "Which heads look from bank to river?")
    rows = _strongest(weights.max(axis=1), _MAX_ROWS)
    columns = _strongest(weights.max(axis=0), (console.width - _LAYER_WIDTH) // _CELL_WIDTH)
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("layer", justify="right")
    for head in columns:
        table.add_column(f"h{head}", justify="right", no_wrap=True)
    for layer in rows:
        table.add_row(str(_number(layers[layer])), *map(_cell, weights[layer, columns]))
    console.print("Weights in sentence 1: a row for each layer, a column for each head.")
    console.print(table)
    shown = (len(rows), len(columns))
    if shown != weights.shape:
        console.print(
            f"[dim]The strongest {shown[0]} of {weights.shape[0]} layers and {shown[1]} of "
            f"{weights.shape[1]} heads.[/]"
        )
    console.print("\nThe strongest, and what bank looks at most in sentence 2 by the same head:")
    console.print(_strongest_table(console, readings.strongest(_NUM_STRONGEST)))


def _strongest_table(console: Console, heads: list[Head]) -> Table:
    table = Table(box=None, header_style="dim")
    for name in ("layer", "head", "river"):
        table.add_column(name, justify="right")
    table.add_column("", width=_MAX_BAR_WIDTH, no_wrap=True)
    table.add_column("in sentence 2")
    table.add_column("")
    for head in heads:
        token, weight = head.in_second
        table.add_row(
            str(_number(head.layer)),
            str(head.number),
            f"{head.to_river:.2f}",
            f"[magenta]{_bar(console, head.to_river, _MAX_BAR_WIDTH)}[/]",
            f"{escape(token)} {weight:.2f}",
            "[dim]always one token back[/]" if head.is_positional else "",
        )
    return table


def _show_movement(console: Console, readings: Readings) -> None:
    """Show the cosines of `bank` with `shore` and `money`, layer by layer."""
    cosines = readings.cosines()
    _heading(console, "Which way does bank move?")
    shore, money = readings.elsewhere
    console.print(
        "Cosines of [bold]bank[/] in sentences 1 and 2 with [cyan]shore[/] and [yellow]money[/], "
        f'which the same layers made of "{escape(shore)}" and "{escape(money)}"'
    )
    width = min(max((console.width - _LAYER_WIDTH) // 4 - 7, 0), _MAX_BAR_WIDTH)
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("after\nlayers", justify="right")
    for word in ("shore", "money"):
        for sentence in (1, 2):
            table.add_column(f"{word}\nin {sentence}", no_wrap=True, width=5 + width)
    last = len(cosines) - 1
    for k in np.unique(np.linspace(0, last, min(last + 1, _MAX_ROWS)).round().astype(int)):
        cells = (
            f"[{style}]{value:5.2f} {_bar(console, value, width - 1)}[/]"
            for style, values in zip(("cyan", "yellow"), cosines[k], strict=True)
            for value in values
        )
        table.add_row(str(k), *cells)
    console.print(table)
    console.print(_verdict(readings))


def _verdict(readings: Readings) -> str:
    cosines = readings.cosines()
    to_shore, to_money = (cosines[:, 0, 0] - cosines[:, 0, 1], cosines[:, 1, 1] - cosines[:, 1, 0])
    k = int(np.minimum(to_shore, to_money).argmax())
    (shore_1, shore_2), (money_1, money_2) = cosines[k]
    if min(to_shore[k], to_money[k]) < _MIN_DIFFERENCE:
        return "[bold]In no layer is bank nearer to shore in 1 and nearer to money in 2.[/]"
    return (
        f"It is clearest after {k} layers: [bold cyan]sentence 1 has moved bank toward the "
        f"water[/] (shore {shore_1:.2f}, not {shore_2:.2f}), [bold yellow]sentence 2 toward the "
        f"money[/] ({money_2:.2f}, not {money_1:.2f})."
    )


def _strongest(weights: np.ndarray, count: int) -> list[int]:
    """Return the places of the largest numbers, in ascending order."""
    return sorted(np.argsort(-weights, kind="stable")[: max(count, 1)].tolist())


def _cell(weight: float) -> str:
    style = "bold magenta" if weight >= _STRONG else "none" if weight >= _WEAK else "dim"
    return f"[{style}]{weight:.2f}[/]"


def _bar(console: Console, share: float, width: int) -> str:
    return ("#" if console.options.ascii_only else "█") * round(max(share, 0.0) * max(width, 0))


def _number(layer: LayerKey) -> int:
    return layer if isinstance(layer, int) else layer[1]


def _heading(console: Console, text: str) -> None:
    console.print()
    console.rule(f"[bold]{escape(text)}[/]", align="left")
