"""Which token looks at which, as tables and heat maps in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from polyhead import viz
from polyhead._viz import token_views
from polyhead.cli.table import as_table
from polyhead.results.pictures import layer_title
from polyhead.results.sequence import sequence_of

if TYPE_CHECKING:
    from polyhead.types import ForwardResult, LayerKey

__all__ = ["format_looks", "print_maps"]


def format_looks(result: ForwardResult, layer: LayerKey, batch: int, count: int) -> str:
    """Return a table with a row for each head and query: the keys of the largest weights."""
    sequence = sequence_of(result, layer, batch)
    own, tokens = sequence.result, sequence.tokens
    rows = [(layer_title(layer), "TOKEN", "LOOKS AT")]
    for head in own.heads or (None,):
        for query in own.queries:
            keys = token_views.top(
                own, tokens, query, k=count, head=head, batch=0, key_tokens=sequence.key_tokens
            )
            rows.append(
                (
                    "mean of heads" if head is None else f"head {head}",
                    tokens[query] if tokens else str(query),
                    ", ".join(f"{key} {weight:.2f}" for key, weight in keys),
                )
            )
    return as_table(rows)


def print_maps(result: ForwardResult, layer: LayerKey, batch: int) -> None:
    """Print a heat map of each head."""
    sequence = sequence_of(result, layer, batch)
    grid = token_views.heat_grid(
        sequence.result, sequence.tokens, head=None, batch=0, key_tokens=sequence.key_tokens
    )
    for title, weights in zip(grid.titles, grid.weights, strict=True):
        name = f"{layer_title(layer)}, {title}"
        viz.print_heat_map(weights, grid.queries, grid.keys, title=name)
        sys.stdout.write("\n")
