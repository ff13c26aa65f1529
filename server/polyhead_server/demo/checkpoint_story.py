"""The river bank once more, through a layer of a real checkpoint."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Table

import polyhead
from polyhead.cli.command import UsageError
from polyhead.errors import ServerError
from polyhead_models.checkpoint.checkpoint import CheckpointError, load_checkpoint
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

__all__ = ["tell"]

_ASKS, _ANSWERS = "bank", "river"
_MODEL_NAME = "checkpoint"
_BAR_WIDTH = 24
_MAX_HEAT_MAPS = 3
_ALWAYS = 0.5
"""Weight above which a head counts as looking at one word."""


def tell(console: Console, folder: Path, layer: int, sentence: str) -> HeatMaps:
    """Send a sentence through a checkpoint's first attention layer and show what `bank` finds.

    Gives the heat maps that it showed, of the heads in which `bank` attends most to `river`.

    Raises UsageError if that cannot be done; PolyheadError if the call fails.
    """
    if layer != 0:
        raise UsageError(
            f"--layer is {layer}; only layer 0 can be shown. What enters a later layer has been "
            "through whole layers before it, feed-forward networks included, and polyhead computes "
            "attention only. 'polyhead export checkpoint' exports every layer, and "
            "'polyhead attend' sends it the hidden states you have"
        )
    try:
        block = load_checkpoint(folder, layer)
        tokens, ids = tokenize(folder, sentence)
        asks, answers = (_position(tokens, word) for word in (_ASKS, _ANSWERS))
        query = embed_tokens(folder, ids)
    except CheckpointError as error:
        raise UsageError(f"--checkpoint: {error}") from error

    attn_weights, execution = _attend(block, query)
    words = [_readable(token) for token in tokens]

    console.print()
    console.rule(f"[bold]{escape(sentence)}[/]", align="left")
    console.print(
        f"The same question to {escape(block.provenance.source)} ({block.provenance.family}), "
        f"{block.provenance.layer}: {block.config.num_heads} heads over {block.config.embed_dim} "
        "dimensions, trained on text and not by hand."
    )
    console.print(
        f"[dim]{len(tokens)} vectors went to a server of its own: {execution.provider}, "
        f"{execution.kernel} kernel, {execution.compute_ms:.2f} ms.[/]"
    )
    console.print(f"\nHow much [bold]{_ASKS}[/] attends to [bold]{_ANSWERS}[/], head by head:")
    console.print(_heads_table(console, attn_weights[:, asks], answers, words))

    heads = _heads_that_answer(attn_weights[:, asks], answers)
    pictures = HeatMaps(
        title=f"{block.provenance.source}, {block.provenance.layer}",
        words=words,
        attn_weights=attn_weights[heads],
        names=[f"Head {head}{_habit(attn_weights[head])}" for head in heads],
    )
    pictures.show(console)
    return pictures


def _attend(
    block: AttentionBlock, query: NDArray[np.float32]
) -> tuple[NDArray[np.float32], Execution]:
    """Export the block, serve it and call it: the weights, (heads, tokens, tokens)."""
    with TemporaryDirectory(prefix="polyhead-demo-") as repository:
        write_model(Path(repository), _MODEL_NAME, build_model(block))
        with (
            running_server(models=Path(repository)) as server,
            polyhead.Client(server.target) as client,
        ):
            result = client.attend(query, model=_MODEL_NAME, need_weights=True)
    if result.attn_weights is None:
        raise ServerError("the server sent no attention weights, which were asked for")
    return result.attn_weights[0], result.execution


def _position(tokens: Sequence[str], word: str) -> int:
    """Find a word among tokens. Raises UsageError if it is not there as one token."""
    words = [_readable(token).lower() for token in tokens]
    if word not in words:
        raise UsageError(
            f"the sentence has no token {word!r}, and the weight that {_ASKS!r} gives to "
            f"{_ANSWERS!r} is what --checkpoint shows; its tokens are {' '.join(tokens)}"
        )
    return words.index(word)


def _readable(token: str) -> str:
    """Take off the mark of a word's beginning: byte-level BPE's, or SentencePiece's."""
    return token.lstrip("\u0120\u2581") or token


def _heads_that_answer(rows: NDArray[np.float32], answers: int) -> list[int]:
    """Pick the heads to show: where the answer gets the most attention of all, strongest first."""
    by_weight = sorted(range(len(rows)), key=lambda head: -rows[head, answers])
    first = [head for head in by_weight if rows[head].argmax() == answers]
    return first[:_MAX_HEAT_MAPS] or by_weight[:1]


def _habit(weights: NDArray[np.float32]) -> str:
    """Say so where a head goes by position alone: its weight on `river` is then no insight."""
    to_the_word_before = np.diagonal(weights, offset=-1)
    if to_the_word_before.min() > _ALWAYS:
        return ": every word looks at the one before it"
    return ""


def _heads_table(
    console: Console, rows: NDArray[np.float32], answers: int, words: Sequence[str]
) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("head", justify="right")
    table.add_column(_ANSWERS, justify="right")
    table.add_column("", width=_BAR_WIDTH, no_wrap=True)
    table.add_column("looks most at")
    block = "#" if console.options.ascii_only else "█"
    for head, row in enumerate(rows):
        bar = block * round(float(row[answers]) * _BAR_WIDTH)
        style = "bold" if row.argmax() == answers else "none"
        table.add_row(
            str(head),
            f"{row[answers]:.2f}",
            f"[magenta]{bar}[/]",
            escape(words[row.argmax()]),
            style=style,
        )
    return table
