"""`polyhead inspect`: lists the attention blocks of a checkpoint."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

from polyhead.cli.command import Command, UsageError
from polyhead.cli.table import as_table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from polyhead_models.commands.inspect_layers import LayerFacts

__all__ = ["COMMAND"]

_DESCRIPTION = dedent("""\
    List the attention blocks of a Hugging Face checkpoint that `polyhead export checkpoint`
    can export: layers, stacks, kinds, heads, sizes; and whether it exports the whole model. It
    reads the files' headers, not the weights.

      polyhead inspect ./all-MiniLM-L6-v2
      polyhead inspect ./llama --json
    """)
_HEADINGS = (
    "STACK",
    "KIND",
    "LAYERS",
    "HEADS",
    "HEAD_DIM",
    "EMBED_DIM",
    "A LAYER'S WEIGHTS",
    "TRAITS",
)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="the checkpoint's folder, which holds config.json"
    )
    parser.add_argument("--json", action="store_true", help="print every layer, as JSON")


def _run(arguments: Namespace) -> int:
    from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
    from polyhead_models.commands.inspect_layers import inspect_layers, inspect_whole_model

    try:
        checkpoint = Checkpoint.open(arguments.folder)
        if checkpoint.warning:  # first, because it may explain an error
            sys.stderr.write(f"polyhead: warning: {checkpoint.warning}\n")
        layers, whole = inspect_layers(checkpoint), inspect_whole_model(checkpoint)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
    if arguments.json:
        facts = {
            "family": checkpoint.model_type,
            "layers": [*map(asdict, layers)],
            "whole_model": asdict(whole),
            "warning": checkpoint.warning,
        }
        text = json.dumps(facts, indent=2)
    else:
        text = f"{as_table([_HEADINGS, *_rows(layers)], folded=(7,))}\n\nwhole model: {whole}"
    sys.stdout.write(f"{text}\n")
    return 0


def _rows(layers: list[LayerFacts]) -> list[tuple[str, ...]]:
    """Make one row for consecutive layers that differ only in their number."""
    rows = []
    for facts, group in groupby(layers, _facts):
        numbers = [layer.layer for layer in group]
        stack, kind, *others = facts
        span = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        rows.append((stack, kind, span, *others))
    return rows


def _facts(layer: LayerFacts) -> tuple[str, ...]:
    heads = f"{layer.num_heads}/{layer.num_kv_heads}"
    return (
        layer.stack,
        layer.kind,
        str(layer.num_heads) if layer.num_kv_heads == layer.num_heads else heads,
        str(layer.head_dim),
        str(layer.embed_dim),
        f"{layer.num_parameters:,} {'/'.join(layer.dtypes)}, {layer.num_bytes / 1e6:.1f} MB",
        ", ".join(layer.traits),
    )


COMMAND = Command(
    help="list the attention blocks of a checkpoint",
    description=_DESCRIPTION,
    extra="export",
    add_arguments=_add_arguments,
    run=_run,
)
