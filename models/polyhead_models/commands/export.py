"""`polyhead export`: writes attention blocks into a repository of models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from textwrap import dedent
from typing import TypeAlias

from polyhead.cli.command import Command
from polyhead_models.commands.variant_options import (
    add_learned_options,
    add_number,
    add_variant_options,
)

__all__ = ["COMMAND"]

_Sources: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - its only name

DESCRIPTION = dedent("""\
    Export multi-head attention to ONNX, into a repository of models that
    `polyhead serve --models` serves: REPO/NAME/VERSION/model.onnx. A file is
    self-contained, and the same export always writes the same bytes.

    examples:
      polyhead export checkpoint ./all-MiniLM-L6-v2 --layer 0 --name minilm --out models
      polyhead export torch mha.safetensors --num-heads 8 --name mine --out models
      polyhead export random --embed-dim 768 --num-heads 12 --name load-test --out models
      polyhead export sdpa --num-heads 12 --head-dim 64 --name sdpa --out models
    """)

CHECKPOINT = dedent("""\
    Export a Hugging Face checkpoint: a folder with config.json and model.safetensors, in
    shards or not. Without --layer and --all-layers the whole model becomes one model, with its
    tokenizer. `polyhead inspect DIR` shows what a checkpoint has.
    Quantised attention and adapters are refused; code of the checkpoint's own is not run.

    families:
      BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, ModernBERT, MPNet, ALBERT,
      ESM (ESM-2, ESM-1b), ViT, DeiT, DINOv2, DINOv2 with registers, CLIP, SigLIP,
      GPT-2, GPT-J, GPT-NeoX, OPT, BLOOM, MPT, Falcon, Llama, Mistral, Ministral, Qwen2, Qwen3,
      Phi, Phi-3, Granite, Cohere, StableLM, StarCoder2, Gemma, Gemma 2, Gemma 3, gpt-oss, T5,
      mT5, BART, mBART, Whisper

    examples:
      polyhead export checkpoint ./all-MiniLM-L6-v2 --name minilm --out models
      polyhead export checkpoint ./all-MiniLM-L6-v2 --layer 0 --name minilm-0 --out models
      polyhead export checkpoint ./whisper-tiny --layer 3 --kind cross --name listen --out models
      polyhead export checkpoint ./clip --stack vision --layer 0 --name patches --out models
      polyhead export checkpoint ./llama --all-layers --name llama --out models
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
      polyhead export random --embed-dim 4096 --num-heads 32 --num-kv-heads 8 --causal \\
          --rotary-dim 128 --rope-theta 500000 --no-bias --name like-llama --out models
    """)

SDPA = dedent("""\
    Export scaled-dot-product attention without projections, and so without weights: the
    caller sends queries, keys and values of every head, side by side or as (batch, heads,
    seq, head_dim), and gets every head's context in the same form.

    examples:
      polyhead export sdpa --num-heads 12 --head-dim 64 --name sdpa --out models
      polyhead export sdpa --num-heads 32 --num-kv-heads 8 --head-dim 128 --causal \\
          --name decoder --out models
    """)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sources of `polyhead export`, each with its own arguments."""
    sources = parser.add_subparsers(title="sources", dest="source", metavar="SOURCE", required=True)
    _add_checkpoint(sources)
    _add_torch(sources)
    _add_random(sources)
    _add_sdpa(sources)


def run(arguments: argparse.Namespace) -> int:
    """Export one block or several, and print the files."""
    # imported here, because `polyhead --help` must work fast and without the extra
    from polyhead_models.commands.run_export import run_export

    sys.stdout.write(run_export(arguments))
    return 0


COMMAND = Command(
    help="export attention blocks to ONNX, into a repository of models",
    description=DESCRIPTION,
    extra="export",
    add_arguments=add_arguments,
    run=run,
)


def _add_checkpoint(sources: _Sources) -> None:
    parser = _add_source(
        sources,
        "checkpoint",
        "layers of a Hugging Face checkpoint",
        CHECKPOINT,
        default_name="the folder's, and of one layer its number",
    )
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="the checkpoint's folder, which holds config.json"
    )
    layers = parser.add_mutually_exclusive_group()
    layers.add_argument(
        "--layer",
        metavar="N",
        type=int,
        help="export the attention of this layer, from 0, as a model (default: the whole model)",
    )
    layers.add_argument(
        "--all-layers",
        action="store_true",
        help="export every layer as its own model, NAME-0 and so on; if --stack and --kind leave "
        "several stacks or kinds, as NAME-decoder-cross-0",
    )
    parser.add_argument(
        "--kind",
        choices=("self", "cross"),
        help="self-attention, or cross-attention to another stack (default: self; with "
        "--all-layers: both)",
    )
    parser.add_argument(
        "--stack",
        choices=("encoder", "decoder", "text", "vision"),
        help="the model's stack of layers (default: the first with such attention; with "
        "--all-layers: all)",
    )
    _add_no_out_proj(parser)
    parser.add_argument(
        "--max-weights-error",
        metavar="X",
        type=_share,
        help="how far --quantize int8 may move an attention weight of a whole model, on random "
        "input; kinds of matrices that would move one further stay float32 (default: 0.1)",
    )


def _add_torch(sources: _Sources) -> None:
    parser = _add_source(
        sources,
        "torch",
        "a torch.nn.MultiheadAttention's state dict",
        TORCH,
        default_name="the file's",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the state dict, as safetensors")
    parser.add_argument(
        "--num-heads", metavar="H", type=int, required=True, help="number of heads of the module"
    )
    parser.add_argument(
        "--prefix",
        default="",
        help="the module's name in a larger state dict, such as encoder.layers.0.self_attn; "
        "optional if the file holds only one such module",
    )
    _add_causal(parser)


def _add_random(sources: _Sources) -> None:
    parser = _add_source(
        sources, "random", "random weights, for load tests", RANDOM, default_name="random"
    )
    parser.add_argument(
        "--embed-dim", metavar="E", type=int, required=True, help="width of the embeddings"
    )
    parser.add_argument(
        "--num-heads", metavar="H", type=int, required=True, help="number of attention heads"
    )
    add_number(parser, "--head-dim", "D", "width of a head (default: E / H)")
    add_number(parser, "--kdim", "K", "width of key embeddings (default: E)")
    add_number(parser, "--vdim", "V", "width of value embeddings (default: E)")
    parser.add_argument(
        "--seed", metavar="S", type=_seed, default=0, help="seed of the weights (default: 0)"
    )
    parser.add_argument("--no-bias", action="store_true", help="projections without biases")
    _add_no_out_proj(parser)
    _add_causal(parser)
    add_variant_options(parser)
    add_learned_options(parser)


def _add_sdpa(sources: _Sources) -> None:
    parser = _add_source(
        sources, "sdpa", "attention alone, without weights", SDPA, default_name="sdpa"
    )
    parser.add_argument(
        "--num-heads", metavar="H", type=int, required=True, help="number of attention heads"
    )
    parser.add_argument("--head-dim", metavar="D", type=int, required=True, help="width of a head")
    _add_causal(parser)
    add_variant_options(parser)


def _add_source(
    sources: _Sources, name: str, summary: str, description: str, *, default_name: str
) -> argparse.ArgumentParser:
    """Add one source, with the arguments that all sources share."""
    parser = sources.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--name", help=f"the model's name (default: {default_name})")
    parser.add_argument(
        "--out",
        metavar="REPO",
        type=Path,
        default=Path("models"),
        help="the repository's folder; created if missing (default: %(default)s)",
    )
    parser.add_argument(
        "--version",
        dest="model_version",
        metavar="V",
        type=int,
        help="the model's version, from 1 (default: one above the newest)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the version if it exists")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of weights and arithmetic; float16 is for GPUs (default: float32)",
    )
    precision.add_argument(
        "--quantize",
        choices=("int8",),
        help="multiply the projections, and in whole models the feed-forward network, as 8-bit "
        "integers: smaller, and faster on CPUs",
    )
    return parser


def _add_no_out_proj(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-out-proj",
        action="store_true",
        help="omit the output projection: the output is the heads' concatenated contexts",
    )


def _add_causal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--causal", action="store_true", help="let query i see only the keys 0 to i"
    )


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return number


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)
