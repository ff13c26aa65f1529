"""`polyhead models`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from polyhead.cli.command import Command
from polyhead.cli.shared_arguments import add_server_arguments, open_client
from polyhead.cli.table import as_table
from polyhead.cli.traits import heads_text, missing_projections, special_traits, visibility

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from polyhead.types import AttentionSpec, ModelInfo, WholeModelSpec

__all__ = ["COMMAND"]

_DESCRIPTION = """\
List a server's models: their architecture, their source, and whether they can be called.

HEADS 4/2 means 4 query heads that share 2 heads of keys and values. Whole models, which `polyhead
forward` runs, show the number of layers of each stack, and the attention of the first.

  polyhead models
  polyhead models --server host:50051 --json
"""
_HEADINGS = (
    "NAME",
    "VERSION",
    "STATE",
    "EMBED_DIM",
    "HEADS",
    "HEAD_DIM",
    "PRECISION",
    "TRAITS",
    "SOURCE",
)


def _add_arguments(parser: ArgumentParser) -> None:
    add_server_arguments(parser, timeout_s=10)
    parser.add_argument("--json", action="store_true", help="print all fields as JSON")


def _run(arguments: Namespace) -> int:
    with open_client(arguments) as client:
        models = client.models()
    if arguments.json:
        text = json.dumps([asdict(model) for model in models], indent=2)
    else:
        text = as_table([_HEADINGS, *(_format_row(model) for model in models)])
    sys.stdout.write(f"{text}\n")
    return 0


def _format_row(model: ModelInfo) -> tuple[str, ...]:
    state = "ready" if model.is_ready else "unavailable"
    cells: tuple[str, ...] = ("-",) * 5
    if model.whole:
        cells = _format_whole(model.whole)
    elif model.spec:
        cells = _format_spec(model.spec)
    source = model.state_reason
    if not source and (origin := model.provenance):
        source = ", ".join(part for part in (origin.source, origin.layer) if part)
    return (model.name, str(model.version), state, *cells, source)


def _format_spec(spec: AttentionSpec) -> tuple[str, ...]:
    traits = [visibility(spec), missing_projections(spec), *special_traits(spec)]
    return (
        str(spec.embed_dim),
        heads_text(spec),
        str(spec.head_dim),
        spec.precision,
        ", ".join(filter(None, traits)),
    )


def _format_whole(whole: WholeModelSpec) -> tuple[str, ...]:
    counts = [f"{stack.num_layers} layers" for stack in whole.stacks]
    if len(whole.stacks) > 1:
        counts = [f"{stack.name} {stack.num_layers} layers" for stack in whole.stacks]
    *cells, traits = _format_spec(whole.stacks[0].layers[0].self_attention)
    takes = "texts" if whole.has_tokenizer else whole.stacks[0].input
    return (*cells, ", ".join(["whole", *counts, f"takes {takes}", traits]))


COMMAND = Command(
    help="list the models of a server",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
