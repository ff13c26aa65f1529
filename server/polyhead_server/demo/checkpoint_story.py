"""Shows the sentence's attention in a layer of a real checkpoint."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Table

import polyhead
from polyhead.cli.command import UsageError
from polyhead.cli.output_paths import writing
from polyhead.errors import ServerError
from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.graph import build_model
from polyhead_models.store import write_model
from polyhead_server.demo.checkpoint_input import embed_tokens, tokenize
from polyhead_server.demo.heat_maps import HeatMaps
from polyhead_server.running import running_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import Console

    from polyhead.types import Execution
    from polyhead_models.blocks import AttentionBlock

__all__ = ["show_checkpoint"]

_QUERY, _KEY = "bank", "river"
_MODEL_NAME = "checkpoint"
_BAR_WIDTH = 24
_MAX_HEAT_MAPS = 3
_POSITIONAL_WEIGHT = 0.5
"""If each word gives the previous one more weight than this, the head attends by position."""


def show_checkpoint(console: Console, folder: Path, layer: int, sentence: str) -> HeatMaps:
    """Show how much `bank` attends to `river` in each head of a checkpoint's first layer.

    Returns the heat maps shown: those of the heads in which `river` gets most of the attention.

    Raises UsageError for a checkpoint or sentence that cannot be shown; PolyheadError if the call
    fails.
    """
    if layer != 0:
        raise UsageError(
            f"--layer is {layer}; only layer 0 can be shown. What enters a later layer has been "
            "through whole layers before it, feed-forward networks included, and polyhead computes "
            "attention only. 'polyhead export checkpoint' exports every layer, and "
            "'polyhead attend' sends it the hidden states you have"
        )
    try:
        checkpoint = Checkpoint.open(folder)
        block = checkpoint.load(checkpoint.locations(kind="self")[0], layer)
        tokens, ids = tokenize(folder, sentence)
        query_at, key_at = (_position(tokens, word) for word in (_QUERY, _KEY))
        query = embed_tokens(folder, ids)
    except CheckpointError as error:
        raise UsageError(f"--checkpoint: {error}") from error

    attn_weights, execution = _attend(block, query)
    words = [_readable(token) for token in tokens]

    console.print()
    console.rule(f"[bold]{escape(sentence)}[/]", align="left")
    if checkpoint.warning:
        console.print(f"[yellow]Warning: {escape(checkpoint.warning)}.[/]")
    console.print(
        f"The same question to {escape(block.provenance.source)} ({block.provenance.family}), "
        f"{block.provenance.layer}: {block.config.num_heads} heads over {block.config.embed_dim} "
        "dimensions, trained on text and not by hand."
    )
    console.print(
        f"[dim]{len(tokens)} vectors went to a server of its own: {execution.provider}, "
        f"{execution.kernel} kernel, {execution.compute_ms:.2f} ms.[/]"
    )
    console.print(f"\nHow much [bold]{_QUERY}[/] attends to [bold]{_KEY}[/], head by head:")
    console.print(_heads_table(console, attn_weights[:, query_at], key_at, words))

    heads = _heads_to_show(attn_weights[:, query_at], key_at)
    heat_maps = HeatMaps(
        title=f"{block.provenance.source}, {block.provenance.layer}",
        words=words,
        attn_weights=attn_weights[heads],
        names=[f"Head {head}{_positional_note(attn_weights[head])}" for head in heads],
    )
    heat_maps.show(console)
    return heat_maps


def _attend(
    block: AttentionBlock, query: NDArray[np.float32]
) -> tuple[NDArray[np.float32], Execution]:
    """Export, serve and call the block; return the weights, (heads, tokens, tokens)."""
    with TemporaryDirectory(prefix="polyhead-demo-") as repository:
        with writing(repository):
            write_model(Path(repository), _MODEL_NAME, build_model(block))
        with (
            running_server(models=Path(repository)) as server,
            polyhead.Client(server.target) as client,
        ):
            result = client.attend(query, model=_MODEL_NAME, need_weights=True)
    if result.attn_weights is None:
        raise ServerError("the server did not send the attention weights requested")
    return result.attn_weights[0], result.execution


def _position(tokens: Sequence[str], word: str) -> int:
    """Find a word's position. Raises UsageError if no single token is the word."""
    words = [_readable(token).lower() for token in tokens]
    if word not in words:
        raise UsageError(
            f"the sentence has no token {word!r}, and the weight that {_QUERY!r} gives to "
            f"{_KEY!r} is what --checkpoint shows; its tokens are {' '.join(tokens)}"
        )
    return words.index(word)


def _readable(token: str) -> str:
    """Remove the marker of a word's start, as byte-level BPE and SentencePiece write it."""
    return token.lstrip("\u0120\u2581") or token


def _heads_to_show(rows: NDArray[np.float32], key_at: int) -> list[int]:
    """Pick the heads in which the key word gets the most attention, strongest first."""
    by_weight = sorted(range(len(rows)), key=lambda head: -rows[head, key_at])
    attending = [head for head in by_weight if rows[head].argmax() == key_at]
    return attending[:_MAX_HEAT_MAPS] or by_weight[:1]


def _positional_note(weights: NDArray[np.float32]) -> str:
    """Return a note for a head that attends by position: it then shows nothing about `river`."""
    to_previous_word = np.diagonal(weights, offset=-1)
    if to_previous_word.min() > _POSITIONAL_WEIGHT:
        return ": every word looks at the one before it"
    return ""


def _heads_table(
    console: Console, rows: NDArray[np.float32], key_at: int, words: Sequence[str]
) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("head", justify="right")
    table.add_column(_KEY, justify="right")
    table.add_column("", width=_BAR_WIDTH, no_wrap=True)
    table.add_column("looks most at")
    block = "#" if console.options.ascii_only else "█"
    for head, row in enumerate(rows):
        bar = block * round(float(row[key_at]) * _BAR_WIDTH)
        style = "bold" if row.argmax() == key_at else "none"
        table.add_row(
            str(head),
            f"{row[key_at]:.2f}",
            f"[magenta]{bar}[/]",
            escape(words[row.argmax()]),
            style=style,
        )
    return table
