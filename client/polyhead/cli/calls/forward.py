"""`polyhead forward`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from polyhead.cli.calls.call_arguments import (
    REQUEST_FLAGS,
    add_call_arguments,
    add_selection_arguments,
    format_summary,
)
from polyhead.cli.command import Command, UsageError
from polyhead.cli.picture_arguments import add_picture_arguments
from polyhead.cli.shared_arguments import (
    errors_name_flags,
    open_client,
    parse_indices,
    parse_layers,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from polyhead.types import ForwardResult, LayerKey, Vectors, Weights

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Run a whole model on texts, and print which token attends to which.

Texts are arguments, lines of a file, or lines of standard input.

  polyhead forward "Tom is going to fish at the river bank." --model minilm
  polyhead forward "Tom fishes at the river bank." --model minilm --layers 3,5 --queries bank
  polyhead forward "..." --model minilm --layers all --average-heads --queries bank --top-k 3
  polyhead forward "..." --model minilm --layers 5 --heads 2 --maps --png head.png
  polyhead forward --file sentences.txt --model minilm --layers all --out result.npz
  echo "..." | polyhead forward --model minilm --hidden-states 0,6 --no-output --out states.npz
  polyhead forward "Where do I fish?" --pair "At the river bank." --model bert --layers 5
  polyhead forward "..." --model t5 --decoder-ids 0,27 --layers encoder:5,cross:5 --sequence 0

LAYERS are numbers from 0, or all. A model of several stacks has encoder:3, decoder:3, text:3 or
vision:3, and cross:3 for a decoder's attention to the encoder.

No layer above the highest requested one runs. Add --no-output if the output is not needed.
"""
_DEFAULT_TOP = 5
_FLAGS = REQUEST_FLAGS | {
    "texts": "TEXT",
    "text_pairs": "--pair",
    "decoder_token_ids": "--decoder-ids",
    "last_layer": "--last-layer",
    "hidden_states_wanted": "--hidden-states",
    "omit_output": "--no-output",
}
"""The flags that set a request's fields, for error messages."""
_WEIGHTS_FLAGS = {
    "layer": "--layers",
    "selection.heads": "--heads",
    "selection.queries": "--queries",
    "query_words": "--queries",
    "selection.top_k": "--top-k",
}
"""The flags that set the fields of a layer's attention weights in a request."""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", nargs="*", help="a text; several are a batch")
    parser.add_argument("--file", metavar="FILE", help="read texts from a file, one a line")
    parser.add_argument(
        "--pair",
        metavar="TEXT",
        help="a second text, the same for each text: both become one sequence",
    )
    add_call_arguments(parser, default_dtype="float32")
    parser.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts to the length that the model is made for",
    )
    parser.add_argument(
        "--decoder-ids",
        metavar="0,27",
        type=parse_indices,
        help="token ids of an encoder-decoder's decoder, the same for each text",
    )
    parser.add_argument(
        "--hidden-states",
        metavar="LAYERS",
        type=_parse_layers_or_all,
        help="hidden states of these layers",
    )
    parser.add_argument(
        "--head-vectors",
        metavar="LAYERS",
        type=_parse_layers_or_all,
        help="query, key, value and context vectors of the heads of these layers, for --out",
    )
    parser.add_argument(
        "--last-layer", metavar="K", type=int, help="stop after layer K, without the final norm"
    )
    parser.add_argument(
        "--no-output",
        action="store_true",
        help="`output` is not computed where that can be avoided",
    )
    parser.add_argument("--out", metavar="FILE.npz", help="save all arrays of the result")
    weights = parser.add_argument_group("attention weights")
    weights.add_argument(
        "--layers", metavar="LAYERS", type=_parse_layers_or_all, help="the weights of these layers"
    )
    weights.add_argument(
        "--queries",
        metavar="bank,3",
        type=_parse_queries,
        help="only the rows of these words (of their last token), or of tokens by their index",
    )
    add_selection_arguments(
        weights, top_k_default=f" (default: all are sent, and {_DEFAULT_TOP} printed)"
    )
    weights.add_argument("--maps", action="store_true", help="print heat maps instead of a table")
    weights.add_argument(
        "--png",
        metavar="FILE",
        help="draw a picture: with tokens for one layer, as a grid for several; bars for one row",
    )
    add_picture_arguments(weights)
    weights.add_argument(
        "--sequence", metavar="N", type=int, default=0, help="print and draw text N (0)"
    )


def _parse_layers_or_all(text: str) -> bool | tuple[LayerKey, ...]:
    """Parse layers, or ``all``, which is True."""
    return True if text == "all" else parse_layers(text)


def _parse_queries(text: str) -> tuple[int | str, ...]:
    """Parse words and indices: ``bank,3``."""
    parts = [part.strip() for part in text.split(",")]
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _run(arguments: Namespace) -> int:
    from polyhead import viz
    from polyhead.cli.calls import forward_files
    from polyhead.cli.output_paths import check_png

    if arguments.maps:
        viz.require("rich")
    if arguments.png:
        viz.require("matplotlib")
        check_png("--png", arguments.png)
    if arguments.out:
        forward_files.check_out(arguments.out)
    need_weights = _need_weights(arguments)
    texts = forward_files.read_texts(arguments.text, arguments.file)
    if not 0 <= arguments.sequence < len(texts):
        raise UsageError(
            f"--sequence is {arguments.sequence}; there are {len(texts)} texts, counted from 0"
        )
    decoder_ids = arguments.decoder_ids and [arguments.decoder_ids] * len(texts)
    with open_client(arguments) as client, errors_name_flags(_flag_of):
        result = client.forward(
            texts,
            text_pair=arguments.pair and [arguments.pair] * len(texts),
            model=arguments.model,
            version=arguments.model_version,
            decoder_token_ids=decoder_ids,
            truncate=arguments.truncate,
            need_weights=need_weights,
            head_vectors=_head_vectors(arguments.head_vectors),
            need_hidden_states=arguments.hidden_states or False,
            need_output=not arguments.no_output,
            last_layer=arguments.last_layer,
            output_dtype=arguments.output_dtype,
            request_id=arguments.request_id,
        )
    with errors_name_flags({"hide_special": "--hide-special"}.get):
        _show(result, arguments)
    if arguments.out:
        forward_files.save(arguments.out, result)
    sys.stdout.write(_summary(result, arguments))
    return 0


def _need_weights(arguments: Namespace) -> bool | Weights | dict[LayerKey, bool | Weights]:
    from polyhead.types import Weights

    selection = Weights(
        heads=arguments.heads or (),
        queries=arguments.queries or (),
        top_k=arguments.top_k,
        average_heads=arguments.average_heads,
        stage=arguments.stage,
    )
    has_others = arguments.layers or arguments.hidden_states or arguments.head_vectors
    if arguments.no_output and not has_others:
        raise UsageError(
            "--no-output leaves nothing to send: add --layers, --hidden-states or --head-vectors"
        )
    if not arguments.layers:
        if selection != Weights() or arguments.maps or arguments.png:
            raise UsageError("attention weights need --layers: numbers such as 3,5, or all")
        return False
    if arguments.layers is True:
        return selection
    return dict.fromkeys(arguments.layers, selection)


def _head_vectors(
    layers: bool | tuple[LayerKey, ...] | None,  # noqa: FBT001 - True: all layers
) -> Vectors | dict[LayerKey, bool | Vectors]:
    from polyhead.types import VECTOR_KINDS, Vectors

    selection = Vectors(kinds=VECTOR_KINDS)
    if layers is True:
        return selection
    return dict.fromkeys(layers or (), selection)


def _flag_of(path: str) -> str | None:
    """Name the flag that sets a field of the request."""
    if path.startswith("attn_weights["):
        part = path.partition(".")[2]
        flags = (flag for start, flag in _WEIGHTS_FLAGS.items() if part.startswith(start))
        return next(flags, None)
    if path.startswith("head_vectors["):
        return "--head-vectors"
    return _FLAGS.get(path.partition("[")[0].partition(".")[0])


def _show(result: ForwardResult, arguments: Namespace) -> None:
    """Print one text's tokens and weights, and draw them."""
    from polyhead import viz
    from polyhead.cli.calls.forward_table import format_looks, print_maps
    from polyhead.cli.output_paths import writing

    batch = arguments.sequence
    tokens = "  ".join(f"{n} {token}" for n, token in enumerate(result.tokens[batch]))
    sys.stdout.write(f"tokens: {tokens}\n\n")
    for layer in result.attn_weights:
        if arguments.maps:
            print_maps(result, layer, arguments)
        else:
            count = arguments.top_k or _DEFAULT_TOP
            sys.stdout.write(f"{format_looks(result, layer, batch, count)}\n\n")
    if arguments.png:
        has_several = len(result.attn_weights) > 1
        figure = result.plot(
            layers=has_several,
            batch=batch,
            hide_special=arguments.hide_special,
            scale=arguments.scale,
        )
        with writing(arguments.png):
            viz.save_figure(arguments.png, figure)


def _summary(result: ForwardResult, arguments: Namespace) -> str:
    from polyhead.cli.calls.forward_files import arrays_of

    names = ("output", "hidden_states", "attn_weights", "head_vectors")
    arrays = {name: array for name, array in arrays_of(result).items() if name.startswith(names)}
    execution = result.execution
    layers = ", ".join(
        f"{stack} {run.start} to {run.stop - 1}" for stack, run in result.layers_run.items() if run
    )
    times = f"queue {execution.queue_ms:.2f} ms, compute {execution.compute_ms:.2f} ms"
    lines = []
    if not result.attn_weights:
        lines.append(("attn_weights", "none: name layers, such as --layers 3,5 or --layers all"))
    lines.append(("model", f"{execution.model}, version {execution.model_version}"))
    lines.append(("layers run", layers))
    lines.append(("executed", f"{execution.provider}, {times}"))
    return format_summary(arrays, lines, arguments)


COMMAND = Command(
    help="run a whole model on texts, and print which token attends to which",
    description=_DESCRIPTION,
    documentation="docs/whole-models.md",
    add_arguments=_add_arguments,
    run=_run,
)
