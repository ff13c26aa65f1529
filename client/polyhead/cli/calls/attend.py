"""`polyhead attend`."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from polyhead.cli.calls.call_arguments import (
    DTYPES,
    REQUEST_FLAGS,
    add_call_arguments,
    add_selection_arguments,
    format_summary,
)
from polyhead.cli.command import Command
from polyhead.cli.picture_arguments import add_picture_arguments
from polyhead.cli.shared_arguments import (
    errors_name_flags,
    open_client,
    parse_indices,
    parse_layers,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from polyhead.types import AttentionResult, LayerKey, Weights

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Run one attention block on arrays from a file.

INPUT is a .npy file with `query`, (batch_size, q_seq_len, embed_dim), or an .npz file with `query`
and any of `key`, `value`, `attn_mask`, `kv_lengths`, `key_padding_mask`, `positions`,
`key_positions` and `tokens`, the words that label heat maps. Arrays with two axes are one
sequence. Arrays with four axes hold heads, as models without input projections expect.

  polyhead attend query.npy --model river-bank
  polyhead attend query.npy --model river-bank --out result.npz
  polyhead attend query.npy --model river-bank --weights --tokens "Tom will fish"
  polyhead attend query.npz --model bert --heads 0,2 --queries 9 --png heads.png
  polyhead attend query.npz --model bert --queries 9 --top-k 5 --average-heads --no-output --weights

Attention weights are computed if an argument below requests all or some of them; --out then saves
them together with the output.
"""
_FLAGS = REQUEST_FLAGS | {
    "layer": "--layer",
    "attn_weights.heads": "--heads",
    "attn_weights.queries": "--queries",
    "attn_weights.top_k": "--top-k",
}
"""The flags that set a request's fields, for error messages."""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", help="a .npy or .npz file")
    add_call_arguments(parser, default_dtype="that of query")
    parser.add_argument(
        "--layer",
        metavar="K",
        type=_parse_layer,
        help="which block of a whole model: 3, or cross:3",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="save `output` as .npy, or all arrays of the result as .npz"
    )
    parser.add_argument(
        "--positions",
        metavar="FILE.npy",
        help="positions of the queries, and of the keys if there is no `key`, for the model's "
        "rotary embedding (default: those in INPUT, or else 0, 1, 2 and so on)",
    )
    parser.add_argument(
        "--head-vectors",
        action="store_true",
        help="query, key, value and context vectors of all heads, for --out",
    )
    weights = parser.add_argument_group("attention weights")
    weights.add_argument(
        "--weights", action="store_true", help="print a heat map of each head to the terminal"
    )
    weights.add_argument(
        "--png", metavar="FILE", help="draw the heat maps as a PNG file; one row as bars"
    )
    add_picture_arguments(weights)
    weights.add_argument(
        "--queries", metavar="3,5", type=parse_indices, help="only these query rows"
    )
    add_selection_arguments(weights)
    weights.add_argument(
        "--weights-dtype",
        choices=DTYPES,
        help="dtype of the weights (default: that of the output)",
    )
    weights.add_argument(
        "--no-output",
        action="store_true",
        help="weights or vectors only: `output` is not computed",
    )
    weights.add_argument(
        "--sequence", metavar="N", type=int, default=0, help="draw sequence N of the batch (0)"
    )
    weights.add_argument(
        "--tokens", metavar='"A B"', help="words of the sequence, which label rows and columns"
    )


def _parse_layer(text: str) -> LayerKey:
    first, *others = parse_layers(text)
    if others:
        raise ArgumentTypeError(f"expected one layer; got {text!r}")
    return first


def _run(arguments: Namespace) -> int:
    from polyhead import viz
    from polyhead.cli.calls import attend_files
    from polyhead.cli.output_paths import check_png
    from polyhead.types import VECTOR_KINDS, Vectors

    selection = _select_weights(arguments)
    if arguments.weights:
        viz.require("rich")
    if arguments.png:
        viz.require("matplotlib")
        check_png("--png", arguments.png)
    if arguments.out:
        has_several = selection is not None or arguments.head_vectors
        attend_files.check_out(arguments.out, has_several=has_several)
    inputs = attend_files.read_input(arguments.input)
    words = inputs.words(arguments.tokens, arguments.sequence)
    positions = inputs.positions
    if arguments.positions:
        positions = attend_files.read_array(arguments.positions)

    with open_client(arguments) as client, errors_name_flags(_flag_of):
        result = client.attend(
            inputs.query,
            model=arguments.model,
            version=arguments.model_version,
            layer=arguments.layer,
            key=inputs.key,
            value=inputs.value,
            attn_mask=inputs.attn_mask,
            kv_lengths=inputs.kv_lengths,
            key_padding_mask=inputs.key_padding_mask,
            positions=positions,
            key_positions=inputs.key_positions,
            need_weights=selection or False,
            head_vectors=arguments.head_vectors and Vectors(kinds=VECTOR_KINDS),
            need_output=not arguments.no_output,
            output_dtype=arguments.output_dtype,
            request_id=arguments.request_id,
        )
    if arguments.weights or arguments.png:
        with errors_name_flags({"hide_special": "--hide-special"}.get):
            _show(result, words, arguments)
    if arguments.out:
        attend_files.save(arguments.out, result)
    sys.stdout.write(_summary(result, arguments))
    return 0


def _select_weights(arguments: Namespace) -> Weights | None:
    from polyhead.types import Weights

    selection = Weights(
        heads=arguments.heads or (),
        queries=arguments.queries or (),
        top_k=arguments.top_k,
        average_heads=arguments.average_heads,
        stage=arguments.stage,
        dtype=arguments.weights_dtype,
    )
    is_alone = arguments.no_output and not arguments.head_vectors
    needs_weights = arguments.weights or arguments.png or is_alone
    return selection if needs_weights or selection != Weights() else None


def _flag_of(path: str) -> str | None:
    """Name the flag that sets a field of the request."""
    name = path.partition("[")[0]  # without an index
    return _FLAGS.get("layer" if name.startswith("layer.") else name)


def _show(result: AttentionResult, words: list[str] | None, arguments: Namespace) -> None:
    """Draw one sequence's weights in the terminal, as PNG, or both."""
    from polyhead import viz
    from polyhead._viz.token_views import heat_grid
    from polyhead.cli.output_paths import writing
    from polyhead.cli.picture_arguments import print_grid
    from polyhead.results.pictures import Look, draw_attention, layer_title

    batch, layer, hide_special = arguments.sequence, arguments.layer, arguments.hide_special
    if arguments.weights:
        grid = heat_grid(
            result, words, head=None, batch=batch, key_tokens=None, hide_special=hide_special
        )
        print_grid(grid, "" if layer is None else layer_title(layer), arguments)
    if arguments.png:
        figure = draw_attention(
            result,
            words,
            Look(hide_special, arguments.scale),
            head=None,
            batch=batch,
            key_tokens=None,
            layer=layer,
        )
        with writing(arguments.png):
            viz.save_figure(arguments.png, figure)


def _summary(result: AttentionResult, arguments: Namespace) -> str:
    from polyhead.cli.calls.attend_files import arrays_of

    execution = result.execution
    device = f"{execution.provider}, {execution.kernel} kernel"
    times = f"queue {execution.queue_ms:.2f} ms, compute {execution.compute_ms:.2f} ms"
    lines = [
        ("model", f"{execution.model}, version {execution.model_version}"),
        ("executed", f"{device}, {times}"),
    ]
    return format_summary(arrays_of(result), lines, arguments, min_width=14)


COMMAND = Command(
    help="run an attention block on arrays from a file",
    description=_DESCRIPTION,
    documentation="docs/weights.md",
    add_arguments=_add_arguments,
    run=_run,
)
