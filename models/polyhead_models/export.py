"""What `polyhead export` does: import a block, build its graph, write it, say what was written."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from polyhead.cli.command import UsageError
from polyhead_models.checkpoint import CheckpointError, load_checkpoint
from polyhead_models.config import AttentionConfig, ConfigError
from polyhead_models.graph import build_model
from polyhead_models.names import ModelNameError, check_model_name
from polyhead_models.random_block import random_block
from polyhead_models.store import StoreError, write_model
from polyhead_models.torch_mha import load_torch_mha

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from polyhead_models.config import AttentionBlock

__all__ = ["export"]

MAX_WEIGHTS_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, below 2 GiB; the graph itself takes a little of that."""


def export(arguments: Namespace) -> str:
    """Carry out `polyhead export`, and give what to tell the user. Raises UsageError."""
    try:
        check_model_name(arguments.name)  # before the work, not after it
        block = _load(arguments)
        _check_size(block.config)
        file = write_model(
            arguments.out,
            arguments.name,
            build_model(block),
            arguments.model_version,
            overwrite=arguments.overwrite,
        )
    except (CheckpointError, ConfigError, ModelNameError, StoreError, OSError) as error:
        raise UsageError(str(error)) from error
    return _report(block, file, arguments.out)


def _load(arguments: Namespace) -> AttentionBlock:
    match arguments.source:
        case "checkpoint":
            return load_checkpoint(
                arguments.folder, arguments.layer, out_proj=not arguments.no_out_proj
            )
        case "torch":
            return load_torch_mha(
                arguments.file,
                num_heads=arguments.num_heads,
                prefix=arguments.prefix,
                is_causal=arguments.causal,
            )
        case _:
            return _random(arguments)


def _random(arguments: Namespace) -> AttentionBlock:
    config = AttentionConfig(
        embed_dim=arguments.embed_dim,
        num_heads=arguments.num_heads,
        head_dim=arguments.head_dim,
        kdim=arguments.kdim,
        vdim=arguments.vdim,
        is_causal=arguments.causal,
        has_out_proj=not arguments.no_out_proj,
    )
    _check_size(config)  # before that much memory is filled
    return random_block(config, arguments.seed, bias=not arguments.no_bias)


def _check_size(config: AttentionConfig) -> None:
    """Refuse a block whose weights no ONNX file can hold."""
    size = 4 * sum(math.prod(shape) for shape in config.weight_shapes().values())
    if size > MAX_WEIGHTS_BYTES:
        raise UsageError(
            f"the weights take {size / 2**30:.1f} GiB, and one ONNX file holds less than 2 GiB; "
            "choose a narrower block"
        )


def _report(block: AttentionBlock, file: Path, repository: Path) -> str:
    config, provenance = block.config, block.provenance
    traits = [
        "causal" if config.is_causal else "bidirectional",
        "with biases" if any(name.endswith(".bias") for name in block.weights) else "no biases",
        "with output projection" if config.has_out_proj else "no output projection",
    ]
    origin = [text for text in (provenance.source, provenance.family, provenance.layer) if text]
    return (
        f"wrote    {file} ({file.stat().st_size:,} bytes)\n"
        f"block    {config.num_heads} heads of {config.head_dim}: embed_dim {config.embed_dim}, "
        f"kdim {config.kdim}, vdim {config.vdim}, output {config.output_dim}\n"
        f"         {', '.join(traits)}\n"
        f"source   {', '.join(origin)}\n"
        f"weights  sha256 {provenance.weights_sha256}\n"
        f"next     polyhead serve --models {shlex.quote(str(repository))}\n"
    )
