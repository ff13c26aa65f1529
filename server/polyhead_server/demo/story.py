"""The story of the river bank: words as vectors, attention, and a word that moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from polyhead_models.river_bank import DIMENSIONS, HEADS, TOWN_GROUP, WATER_GROUP, embed
from polyhead_server.demo.heat_maps import HeatMaps
from polyhead_server.demo.scene import attend_to, centroid, cosine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from polyhead import Client
    from polyhead_server.demo.scene import Scene

__all__ = ["BANKING", "FISHING", "heat_maps", "show_sentence", "show_story"]

FISHING = "Tom is going to fish at the river bank."
BANKING = "Tom is going to the bank to deposit money."

_WORDS = (*WATER_GROUP, *TOWN_GROUP, "bank")
_STYLES = {**dict.fromkeys(WATER_GROUP, "cyan"), **dict.fromkeys(TOWN_GROUP, "yellow")}
_BAR_WIDTH = 24
_FULL_WIDTH = 80
_NUM_ATTENDED = 4
_MIN_WEIGHT = 0.005
"""Smaller weights would be printed as 0.00."""
_MIN_SHIFT = 0.3
"""Smallest shift between the two cosines that the story calls a move to one side."""


def show_story(console: Console, client: Client, target: str) -> list[Scene]:
    """Show the whole story, with two sentences sent to a server."""
    _heading(console, "Words become vectors")
    console.print(
        "Six numbers describe each word: how much it has to do with towns (or, below zero, with "
        "nature), with water and with money, and whether it is a place, an action or a thing."
    )
    console.print(_embeddings_table())

    _heading(console, "Similar words lie close")
    console.print(
        "The cosine between two vectors: 1 is the same direction, 0 unrelated, -1 opposed."
    )
    console.print(_cosine_table(is_narrow=console.width < _FULL_WIDTH))
    to_water, to_town = _group_cosines(embed(["bank"])[0, 0])
    console.print(
        f"[bold]bank[/] has a cosine of {to_water:.2f} with the centre of the water group and of "
        f"{to_town:.2f} with that of the town group: it could be either. Only the sentence around "
        "it decides."
    )

    _heading(console, FISHING)
    fishing = attend_to(client, FISHING)
    console.print(
        "Each word has a query, a key and a value. A word attends most to those whose keys fit its "
        "query, and receives their values. The two heads have different queries: in the first, "
        "words of water or of money look for words of their group; in the second, actions look for "
        "things, and things for actions."
    )
    _show(console, fishing, target)

    _heading(console, BANKING)
    banking = attend_to(client, BANKING)
    console.print("The same word, the same weights, another sentence.")
    _show(console, banking, target)
    return [fishing, banking]


def show_sentence(console: Console, client: Client, target: str, sentence: str) -> list[Scene]:
    """Show the attention of one sentence of known words.

    Raises UnknownWordError, or ValueError for a sentence without words.
    """
    scene = attend_to(client, sentence)
    _heading(console, sentence)
    _show(console, scene, target)
    return [scene]


def heat_maps(scene: Scene) -> HeatMaps:
    """Make the heat maps of a scene."""
    return HeatMaps(
        model=scene.execution.model,
        sentence=scene.sentence,
        words=scene.tokens,
        attn_weights=scene.attn_weights,
        names=[f"Head {head}: {name}" for head, name in enumerate(HEADS)],
    )


def _show(console: Console, scene: Scene, target: str) -> None:
    execution = scene.execution
    console.print(
        f"[dim]{len(scene.tokens)} vectors went to {escape(target)}: model {execution.model}, "
        f"version {execution.model_version}, on {execution.provider}, {execution.kernel} kernel, "
        f"{execution.compute_ms:.2f} ms.[/]"
    )
    heat_maps(scene).show(console)

    position = scene.focus()
    word = scene.tokens[position]
    console.print(f"\nWhom [bold]{escape(word)}[/] attends to, besides itself:")
    for head, name in enumerate(HEADS):
        console.print(_bars(scene, head, name, position, ascii_only=console.options.ascii_only))

    console.print(
        f"\nThe block's output, added to the embedding, moves [bold]{escape(word)}[/]. "
        "Cosines to the two groups' centres:"
    )
    before, after = scene.before[position], scene.after[position]
    console.print(_movement_table(before, after))
    console.print(_verdict(word, before, after))


def _heading(console: Console, text: str) -> None:
    console.print()
    console.rule(f"[bold]{escape(text)}[/]", align="left")


def _embeddings_table() -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("", overflow="crop")
    for dimension in DIMENSIONS:
        table.add_column(dimension, justify="right")
    for word, vector in zip(_WORDS, embed(_WORDS)[0], strict=True):
        table.add_row(word, *(f"{number:.1f}" for number in vector), style=_style(word))
    return table


def _cosine_table(*, is_narrow: bool) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0) if is_narrow else (0, 1))
    table.add_column("", overflow="crop")
    for word in _WORDS:
        name = word[:5] if is_narrow else word
        table.add_column(name, justify="right", no_wrap=True, min_width=5)
    vectors = embed(_WORDS)[0]
    for word, vector in zip(_WORDS, vectors, strict=True):
        cells = (cosine(vector, other) for other in vectors)
        table.add_row(f"[{_style(word)}]{word}[/]", *map(_cosine_cell, cells))
    return table


def _cosine_cell(value: float) -> str:
    style = "bold green" if value > 0.8 else "red" if value < 0 else "none"
    return f"[{style}]{value:z.2f}[/]"


def _bars(scene: Scene, head: int, name: str, position: int, *, ascii_only: bool) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column(f"head {head}: {name}", min_width=22)
    table.add_column("", no_wrap=True)
    table.add_column("", width=_BAR_WIDTH, no_wrap=True, overflow="crop")
    block = "#" if ascii_only else "█"
    for token, weight in scene.attended(head, position)[:_NUM_ATTENDED]:
        if weight >= _MIN_WEIGHT:
            bar = block * round(weight * _BAR_WIDTH)
            table.add_row(f"  {escape(token)}", f"{weight:.2f}", f"[magenta]{bar}[/]")
    return table


def _movement_table(before: NDArray[np.float32], after: NDArray[np.float32]) -> Table:
    table = Table(box=None, header_style="dim")
    for name in ("", "before", "after"):
        table.add_column(name, justify="right")
    names = (f"water ({', '.join(WATER_GROUP)})", f"town ({', '.join(TOWN_GROUP)})")
    for name, style, old, new in zip(
        names, ("cyan", "yellow"), _group_cosines(before), _group_cosines(after), strict=True
    ):
        table.add_row(f"[{style}]{name}[/]", f"{old:z.2f}", f"[bold]{new:z.2f}[/]")
    return table


def _verdict(word: str, before: NDArray[np.float32], after: NDArray[np.float32]) -> str:
    (old_water, old_town), (new_water, new_town) = _group_cosines(before), _group_cosines(after)
    shift = (new_water - new_town) - (old_water - old_town)
    if shift > _MIN_SHIFT:
        return f"[bold cyan]The sentence moved {escape(word)} toward the water.[/]"
    if shift < -_MIN_SHIFT:
        return f"[bold yellow]The sentence moved {escape(word)} toward the town.[/]"
    return f"[bold]The sentence leaves {escape(word)} undecided.[/]"


def _group_cosines(vector: NDArray[np.float32]) -> tuple[float, float]:
    """Return the cosines to the centres of the water group and of the town group."""
    return cosine(vector, centroid(WATER_GROUP)), cosine(vector, centroid(TOWN_GROUP))


def _style(word: str) -> str:
    return _STYLES.get(word, "bold")
