"""`polyhead attend`."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any

from polyhead.cli.command import Command, UsageError
from polyhead.cli.server_arguments import add_server_arguments, open_client

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from numpy.typing import NDArray

    from polyhead.types import AttentionResult, AttnWeights

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Run one attention block on arrays from a file.

INPUT is a .npy file with `query`, (batch_size, q_seq_len, embed_dim), or an .npz file with `query`
and any of `key`, `value`, `attn_mask`, `kv_lengths`, and `tokens`, the words to label heat maps
with. Arrays of two axes are taken for one sequence.

  polyhead attend query.npy --model river-bank
  polyhead attend query.npy --model river-bank --out result.npz
  polyhead attend query.npy --model river-bank --weights --tokens "Tom will fish"
  polyhead attend query.npz --model bert --heads 0,2 --queries 9 --png heads.png

Attention weights are computed if --weights, --png, --heads or --queries asks for them; --out then
saves them too, beside the output.
"""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", help="a .npy or .npz file")
    parser.add_argument("--model", metavar="NAME", required=True, help="which model to run")
    parser.add_argument(
        "--model-version", metavar="N", type=int, help="which version of it (default: the newest)"
    )
    add_server_arguments(parser, timeout_s=60)
    parser.add_argument(
        "--output-dtype",
        choices=("float32", "float16", "bfloat16", "float64"),
        help="dtype of the result (default: that of query)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="save `output` as .npy, or `output` and `attn_weights` as .npz",
    )
    weights = parser.add_argument_group("attention weights")
    weights.add_argument(
        "--weights", action="store_true", help="print a heat map of each head to the terminal"
    )
    weights.add_argument("--png", metavar="FILE", help="draw the heat maps as a PNG file")
    weights.add_argument("--heads", metavar="0,2", type=_indices, help="only these heads")
    weights.add_argument("--queries", metavar="3,5", type=_indices, help="only these query rows")
    weights.add_argument(
        "--sequence", metavar="N", type=int, default=0, help="draw sequence N of the batch (0)"
    )
    weights.add_argument(
        "--tokens", metavar='"A B"', help="words of the sequence, to label rows and columns with"
    )


def _indices(text: str) -> tuple[int, ...]:
    """Read ``0,2``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"expected numbers such as 0,2; got {text!r}") from None


def _run(arguments: Namespace) -> int:
    from polyhead import viz
    from polyhead.cli import attend_files

    selection = _selection(arguments)
    # Whatever cannot end well is refused before the server works for it.
    if arguments.weights:
        viz.require("rich")
    if arguments.png:
        viz.require("matplotlib")
        attend_files.check_folder(arguments.png)
    if arguments.out:
        attend_files.check_out(arguments.out, has_weights=selection is not None)
    given = attend_files.read_input(arguments.input)
    queries, keys = given.labels(arguments.tokens, arguments.sequence)

    with open_client(arguments) as client:
        result = client.attend(
            given.query,
            model=arguments.model,
            version=arguments.model_version,
            key=given.key,
            value=given.value,
            attn_mask=given.attn_mask,
            kv_lengths=given.kv_lengths,
            need_weights=selection or False,
            output_dtype=arguments.output_dtype,
        )
    try:
        if result.attn_weights is not None:
            picked = [queries[row] for row in arguments.queries or range(len(queries))]
            _show(result.attn_weights[arguments.sequence], picked, keys, arguments)
        if arguments.out:
            attend_files.save(arguments.out, result)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from error
    sys.stdout.write(_summary(result, arguments))
    return 0


def _selection(arguments: Namespace) -> AttnWeights | None:
    from polyhead.types import AttnWeights

    wishes = (arguments.weights, arguments.png, arguments.heads, arguments.queries)
    if not any(wishes):
        return None
    return AttnWeights(heads=arguments.heads or (), queries=arguments.queries or ())


def _show(
    attn_weights: NDArray[Any], queries: list[str], keys: list[str], arguments: Namespace
) -> None:
    """Draw one sequence's weights, (heads, queries, keys), wherever they were asked for."""
    from polyhead import viz

    heads = arguments.heads or range(len(attn_weights))
    if arguments.weights:
        for head, weights in zip(heads, attn_weights, strict=True):
            viz.print_heat_map(weights, queries, keys, title=f"head {head}")
            sys.stdout.write("\n")
    if arguments.png:
        titles = [f"head {head}" for head in heads]
        viz.save_heat_maps(
            arguments.png, attn_weights, queries, keys, titles=titles, title=arguments.model
        )


def _summary(result: AttentionResult, arguments: Namespace) -> str:
    execution = result.execution
    where = f"{execution.provider}, {execution.kernel} kernel"
    times = f"queue {execution.queue_ms:.2f} ms, compute {execution.compute_ms:.2f} ms"
    lines = [("output", f"{result.output.dtype} {result.output.shape}")]
    if (weights := result.attn_weights) is not None:
        lines.append(("attn_weights", f"{weights.dtype} {weights.shape}"))
    lines.append(("model", f"{execution.model}, version {execution.model_version}"))
    lines.append(("executed", f"{where}, {times}"))
    lines += [("saved", path) for path in (arguments.out, arguments.png) if path]
    return "".join(f"{name:<14}{text}\n" for name, text in lines)


COMMAND = Command(
    help="run an attention block on arrays from a file",
    description=_DESCRIPTION,
    extra="",
    add_arguments=_add_arguments,
    run=_run,
)
