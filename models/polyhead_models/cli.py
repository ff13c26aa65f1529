"""`polyhead export`: attention blocks into a repository of models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from textwrap import dedent

from polyhead.cli.command import Command

__all__ = ["COMMAND"]

DESCRIPTION = dedent("""\
    Export one multi-head attention block to ONNX, into a repository of models that
    `polyhead serve --models` serves: REPO/NAME/VERSION/model.onnx. The file is
    self-contained, and the same export always writes the same bytes.

    examples:
      polyhead export checkpoint ./all-MiniLM-L6-v2 --layer 0 --name minilm --out models
      polyhead export torch mha.safetensors --num-heads 8 --name mine --out models
      polyhead export random --embed-dim 768 --num-heads 12 --name load-test --out models
    """)

CHECKPOINT = dedent("""\
    Export one layer's self-attention from a Hugging Face checkpoint: a folder with
    config.json and model.safetensors, in shards or not. Families: BERT, RoBERTa,
    XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT.

    examples:
      polyhead export checkpoint ./all-MiniLM-L6-v2 --layer 0 --name minilm --out models
      polyhead export checkpoint ./distilbert --layer 5 --name distil --out models --overwrite
    """)

TORCH = dedent("""\
    Export a torch.nn.MultiheadAttention from a state dict saved as safetensors. Torch
    is not needed here; where it is, save the module with
      safetensors.torch.save_file(module.state_dict(), "mha.safetensors")

    examples:
      polyhead export torch mha.safetensors --num-heads 8 --name mine --out models
      polyhead export torch transformer.safetensors --prefix encoder.layers.0.self_attn \\
          --num-heads 8 --name encoder-0 --out models
    """)

RANDOM = dedent("""\
    Export a block with random weights, for load tests. The same seed gives the same
    weights on every machine.

    examples:
      polyhead export random --embed-dim 768 --num-heads 12 --name load-test --out models
      polyhead export random --embed-dim 512 --num-heads 8 --kdim 256 --vdim 256 --causal \\
          --seed 7 --name cross --out models
    """)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `polyhead export`'s three sources, each with its own arguments."""
    sources = parser.add_subparsers(title="sources", dest="source", metavar="SOURCE", required=True)

    checkpoint = _add_source(
        sources, "checkpoint", "a layer of a Hugging Face checkpoint", CHECKPOINT
    )
    checkpoint.add_argument(
        "folder", metavar="DIR", type=Path, help="the checkpoint's folder, which holds config.json"
    )
    checkpoint.add_argument(
        "--layer", metavar="N", type=int, required=True, help="number of the layer, from 0"
    )

    torch = _add_source(sources, "torch", "a torch.nn.MultiheadAttention's state dict", TORCH)
    torch.add_argument("file", metavar="FILE", type=Path, help="the state dict, as safetensors")
    torch.add_argument(
        "--num-heads", metavar="H", type=int, required=True, help="heads, as the module was made"
    )
    torch.add_argument(
        "--prefix",
        default="",
        help="the module's name in a larger state dict, such as encoder.layers.0.self_attn; may "
        "be left out if there is one such module only",
    )

    random = _add_source(sources, "random", "random weights, for load tests", RANDOM)
    random.add_argument(
        "--embed-dim", metavar="E", type=int, required=True, help="width of the embeddings"
    )
    random.add_argument(
        "--num-heads", metavar="H", type=int, required=True, help="number of attention heads"
    )
    random.add_argument(
        "--head-dim", metavar="D", type=int, default=0, help="width of a head (default: E / H)"
    )
    random.add_argument(
        "--kdim",
        metavar="K",
        type=int,
        default=0,
        help="width of the keys' embeddings (default: E)",
    )
    random.add_argument(
        "--vdim", metavar="V", type=int, default=0, help="width of the values' (default: E)"
    )
    random.add_argument(
        "--seed", metavar="S", type=_seed, default=0, help="seed of the weights (default: 0)"
    )
    random.add_argument("--no-bias", action="store_true", help="projections without biases")

    for source in (checkpoint, random):
        source.add_argument(
            "--no-out-proj",
            action="store_true",
            help="leave the output projection out: the output is the heads' concatenated contexts",
        )
    for source in (torch, random):
        source.add_argument(
            "--causal", action="store_true", help="let query i see the keys 0 to i only"
        )


def run(arguments: argparse.Namespace) -> int:
    """Export a block and say what was written."""
    # here and not above: `polyhead --help` must work without the extra, and without the wait
    from polyhead_models.export import export

    sys.stdout.write(export(arguments))
    return 0


COMMAND = Command(
    help="export an attention block to ONNX, into a repository of models",
    description=DESCRIPTION,
    extra="export",
    add_arguments=add_arguments,
    run=run,
)


def _add_source(
    sources: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    """Add one source, with the arguments that all of them have."""
    parser = sources.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", required=True, help="what the model will be called")
    parser.add_argument(
        "--out",
        metavar="REPO",
        type=Path,
        required=True,
        help="the repository's folder; made if it is not there",
    )
    parser.add_argument(
        "--version",
        dest="model_version",
        metavar="V",
        type=int,
        help="the model's version, from 1 (default: one above the newest there is)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the version if it is there already"
    )
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)
