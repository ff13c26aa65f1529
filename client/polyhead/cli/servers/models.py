"""`polyhead models`, and `polyhead models reload`."""

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

WIDTH is that of the embeddings a block takes. HEADS 4/2 x 16 means 4 query heads of 16 dimensions
that share 2 heads of keys and values. Whole models, which `polyhead forward` runs, show the number
of layers of each stack, and the attention of the first.

A model that is ready and still has a reason was changed on the disk, and what changed cannot be
loaded. `polyhead models reload` makes the server load what has changed in its repository, and ends
with 1 if a version cannot be loaded; what was served before is served on. It waits for
five minutes, or for --timeout if that is longer.

  polyhead models
  polyhead models --server host:50051 --json
  polyhead models reload
"""
_RELOAD_TIMEOUT_S = 300.0
"""Models may take minutes to load; a list takes milliseconds."""
_CHANGE_HEADINGS = ("NAME", "VERSION", "OUTCOME", "REASON")
_HEADINGS = ("NAME", "VERSION", "STATE", "WIDTH", "HEADS", "ABOUT")
_FOLDED = (0, 5)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "reload"),
        default="list",
        help="list the models (default), or reload those that have changed",
    )
    add_server_arguments(parser, timeout_s=10)
    parser.add_argument("--json", action="store_true", help="print all fields as JSON")


def _run(arguments: Namespace) -> int:
    return _reload(arguments) if arguments.action == "reload" else _list(arguments)


def _reload(arguments: Namespace) -> int:
    with open_client(arguments) as client:
        changes = client.reload_models(timeout=max(arguments.timeout, _RELOAD_TIMEOUT_S))
    if arguments.json:
        text = json.dumps([asdict(change) for change in changes], indent=2)
    elif changes:
        rows = ((c.name, str(c.version), c.outcome, c.reason) for c in changes)
        text = as_table([_CHANGE_HEADINGS, *rows], folded=(0, 3))
    else:
        text = "nothing has changed"
    sys.stdout.write(f"{text}\n")
    return int(any(change.outcome == "failed" for change in changes))


def _list(arguments: Namespace) -> int:
    with open_client(arguments) as client:
        models = client.models()
    if arguments.json:
        text = json.dumps([asdict(model) for model in models], indent=2)
    else:
        rows = [_HEADINGS, *(_format_row(model) for model in models)]
        text = as_table(rows, folded=_FOLDED)
    sys.stdout.write(f"{text}\n")
    return 0


def _format_row(model: ModelInfo) -> tuple[str, ...]:
    state = "ready" if model.is_ready else "unavailable"
    sizes, traits = ("-", "-"), ""
    if model.whole:
        first = model.whole.stacks[0].layers[0].self_attention
        sizes, traits = _format_sizes(first), _format_whole(model.whole)
    elif model.spec:
        sizes, traits = _format_sizes(model.spec), _format_traits(model.spec)
    source = model.state_reason
    if not source and (origin := model.provenance):
        source = ", ".join(part for part in (origin.source, origin.layer) if part)
    about = "; ".join(filter(None, (traits, source)))
    return (model.name, str(model.version), state, *sizes, about or "-")


def _format_sizes(spec: AttentionSpec) -> tuple[str, str]:
    return str(spec.embed_dim), f"{heads_text(spec)} x {spec.head_dim}"


def _format_traits(spec: AttentionSpec) -> str:
    traits = (spec.precision, visibility(spec), missing_projections(spec), *special_traits(spec))
    return ", ".join(filter(None, traits))


def _format_whole(whole: WholeModelSpec) -> str:
    counts = [f"{stack.num_layers} layers" for stack in whole.stacks]
    if len(whole.stacks) > 1:
        counts = [f"{stack.name} {stack.num_layers} layers" for stack in whole.stacks]
    takes = "texts" if whole.has_tokenizer else whole.stacks[0].input
    traits = _format_traits(whole.stacks[0].layers[0].self_attention)
    return ", ".join(["whole", *counts, f"takes {takes}", traits])


COMMAND = Command(
    help="list the models of a server, or reload those that have changed",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
