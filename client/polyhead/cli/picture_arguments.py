"""The arguments of commands that draw attention weights, and the maps that they print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace, _ArgumentGroup

    from polyhead._viz.token_views import HeatGrid

__all__ = ["add_picture_arguments", "print_grid"]


def add_picture_arguments(group: _ArgumentGroup) -> None:
    """Declare --hide-special and --scale."""
    group.add_argument(
        "--hide-special",
        action="store_true",
        help="draw no special tokens, such as [CLS]; the others' weights stay what they are",
    )
    group.add_argument(
        "--scale",
        choices=("shared", "head"),
        default="shared",
        help="whether a colour is the same weight in all heads that are drawn, or a share of the "
        "largest weight of its head (default: %(default)s)",
    )


def print_grid(grid: HeatGrid, title: str, arguments: Namespace) -> None:
    """Print a heat map of each head. ``title``: the text before the head's name."""
    from polyhead import viz

    for name, weights in zip(grid.titles, grid.weights, strict=True):
        viz.print_heat_map(
            weights,
            grid.queries,
            grid.keys,
            title=", ".join(filter(None, (title, name))),
            scale_of=grid.weights if arguments.scale == "shared" else None,
            is_diverging=grid.is_diverging,
        )
        sys.stdout.write("\n")
    sys.stdout.write("".join(f"{note}\n\n" for note in grid.notes))
