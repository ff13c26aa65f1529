"""Tables and heat maps in the terminal: which token attends to which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead._viz import token_views
from polyhead.cli.picture_arguments import print_grid
from polyhead.cli.table import as_table
from polyhead.results.pictures import layer_grid, layer_title
from polyhead.results.sequence import sequence_of

if TYPE_CHECKING:
    from argparse import Namespace

    from polyhead.types import ForwardResult, LayerKey

__all__ = ["format_looks", "print_maps"]


def format_looks(result: ForwardResult, layer: LayerKey, batch: int, count: int) -> str:
    """Return a table with a row for each head and query: the keys of the largest weights."""
    sequence = sequence_of(result, layer, batch)
    weights, tokens = sequence.result, sequence.tokens
    rows = [(layer_title(layer), "TOKEN", "LOOKS AT")]
    for head in weights.heads or (None,):
        for query in weights.queries:
            keys = token_views.top(
                weights, tokens, query, k=count, head=head, batch=0, key_tokens=sequence.key_tokens
            )
            rows.append(
                (
                    "mean of heads" if head is None else f"head {head}",
                    tokens[query] if tokens else str(query),
                    ", ".join(f"{key} {weight:.2f}" for key, weight in keys),
                )
            )
    return as_table(rows, folded=(2,))


def print_maps(result: ForwardResult, layer: LayerKey, arguments: Namespace) -> None:
    """Print a heat map of each head."""
    grid = layer_grid(
        result,
        layer,
        head=None,
        batch=arguments.sequence,
        hide_special=arguments.hide_special,
    )
    print_grid(grid, layer_title(layer), arguments)
