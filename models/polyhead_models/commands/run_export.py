"""Runs `polyhead export`: loads or makes blocks, exports them, and reports the files."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from polyhead.cli.command import UsageError
from polyhead_models.blocks import make_block
from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.checkpoint.whole_tensors import surplus_layers
from polyhead_models.commands.export_report import report_all, report_one, report_whole
from polyhead_models.commands.variant_options import learned_fields, variant_fields
from polyhead_models.config import AttentionConfig, ConfigError
from polyhead_models.export.export import export_block
from polyhead_models.export.whole import MAX_WEIGHTS_ERROR, export_whole_model
from polyhead_models.names import ModelNameError, check_model_name, name_of_folder
from polyhead_models.random_block import random_block
from polyhead_models.rotary import RotaryError
from polyhead_models.store import StoreError, check_repository
from polyhead_models.torch_mha import load_torch_mha

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.checkpoint.families.family import AttentionLocation
    from polyhead_models.export.export import ExportedModel

    Export = Callable[[AttentionBlock, str], ExportedModel]

__all__ = ["run_export"]


def run_export(arguments: Namespace) -> str:
    """Run `polyhead export`, and return the text for the user. Raises UsageError."""
    export = partial(
        export_block,
        repository=arguments.out,
        precision=_precision(arguments),
        version=arguments.model_version,
        overwrite=arguments.overwrite,
    )
    if arguments.name is None:
        arguments.name = _default_name(arguments)
    try:
        check_model_name(arguments.name)  # before any file is read
        check_repository(arguments.out)
        if arguments.source == "checkpoint":
            return _export_checkpoint(arguments, export)
        return report_one(export(_load(arguments), arguments.name), arguments.out)
    except (CheckpointError, ConfigError, ModelNameError, RotaryError, StoreError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        file = error.filename or arguments.out
        raise UsageError(f"{file} cannot be read or written: {error.strerror or error}") from error


def _default_name(arguments: Namespace) -> str:
    """Name the model after its source."""
    match arguments.source:
        case "checkpoint":
            stack, kind, layer = arguments.stack, arguments.kind, arguments.layer
            parts = [name_of_folder(arguments.folder)]
            if layer is not None:
                parts += [part for part in (stack, kind, str(layer)) if part]
            return "-".join(parts)
        case "torch":
            stem: str = arguments.file.stem
            return stem
        case source:
            return str(source)


def _export_checkpoint(arguments: Namespace, export: Export) -> str:
    """Export the whole model, one layer or all layers of a checkpoint; warn of custom code."""
    checkpoint = Checkpoint.open(arguments.folder)
    _warn(checkpoint.warning)
    stack = arguments.stack or ""
    if arguments.layer is None and not arguments.all_layers:
        return _export_whole(arguments, checkpoint)
    if arguments.max_weights_error is not None:
        raise UsageError(
            "--max-weights-error is for whole models; omit it, or --layer and --all-layers"
        )
    if arguments.all_layers:
        locations = checkpoint.saved_locations(stack=stack, kind=arguments.kind or "")
        return _export_all_layers(arguments, checkpoint, locations, export)
    location = checkpoint.locations(stack=stack, kind=arguments.kind or "self")[0]
    block = checkpoint.load(location, arguments.layer, out_proj=not arguments.no_out_proj)
    return report_one(export(block, arguments.name), arguments.out)


def _export_whole(arguments: Namespace, checkpoint: Checkpoint) -> str:
    """Export the whole model."""
    from polyhead_models.commands.progress import progress

    if arguments.stack or arguments.kind or arguments.no_out_proj:
        raise UsageError(
            "--stack, --kind and --no-out-proj are for single layers; add --layer or --all-layers"
        )
    precision, max_weights_error = _precision(arguments), arguments.max_weights_error
    if max_weights_error is not None and precision != "int8":
        raise UsageError("--max-weights-error is for --quantize int8; add it")
    _warn(surplus_layers(checkpoint))
    steps = 3 if precision == "int8" else 1  # write float32, write int8, measure
    with progress(steps * checkpoint.count_layers()) as on_layer:
        model = export_whole_model(
            checkpoint,
            arguments.name,
            arguments.out,
            precision=precision,
            max_weights_error=max_weights_error or MAX_WEIGHTS_ERROR,
            version=arguments.model_version,
            overwrite=arguments.overwrite,
            on_layer=on_layer,
        )
    return report_whole(model, checkpoint.source, arguments.out)


def _warn(warning: str) -> None:
    if warning:
        sys.stderr.write(f"polyhead: warning: {warning}\n")


def _export_all_layers(
    arguments: Namespace,
    checkpoint: Checkpoint,
    locations: list[AttentionLocation],
    export: Export,
) -> str:
    """Export every layer of some locations, each as its own model."""
    from polyhead_models.commands.progress import progress

    models = list(_name_layers(checkpoint, locations, arguments.name))
    for name, _, _ in models:
        check_model_name(name)
    num_bytes = 0
    with progress(len(models)) as on_layer:
        for name, location, layer in models:
            block = checkpoint.load(location, layer, out_proj=not arguments.no_out_proj)
            num_bytes += export(block, name).num_bytes
            on_layer(name)
    return report_all([name for name, _, _ in models], num_bytes, arguments.out)


def _name_layers(
    checkpoint: Checkpoint, locations: list[AttentionLocation], name: str
) -> Iterator[tuple[str, AttentionLocation, int]]:
    """Name each layer's model; if there are several locations, with its stack and kind."""
    for location in locations:
        middle = f"-{location.stack}-{location.kind}" if len(locations) > 1 else ""
        for layer in range(checkpoint.num_layers(location)):
            yield f"{name}{middle}-{layer}", location, layer


def _load(arguments: Namespace) -> AttentionBlock:
    match arguments.source:
        case "torch":
            return load_torch_mha(
                arguments.file,
                num_heads=arguments.num_heads,
                prefix=arguments.prefix,
                is_causal=arguments.causal,
            )
        case "sdpa":
            return _sdpa(arguments)
        case _:
            return _random(arguments)


def _random(arguments: Namespace) -> AttentionBlock:
    config = AttentionConfig(
        embed_dim=arguments.embed_dim,
        kdim=arguments.kdim,
        vdim=arguments.vdim,
        has_out_proj=not arguments.no_out_proj,
        **variant_fields(arguments),
        **learned_fields(arguments),
    )
    _check_memory(config)
    return random_block(config, arguments.seed, bias=not arguments.no_bias)


def _check_memory(config: AttentionConfig) -> None:
    """Raise UsageError if the weights exceed the machine's memory, where its size is known."""
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if config.weights_bytes > memory:
        raise UsageError(
            f"the weights take {config.weights_bytes / 2**30:.1f} GiB, and this machine has "
            f"{memory / 2**30:.1f} GiB of memory; choose a narrower block"
        )


def _sdpa(arguments: Namespace) -> AttentionBlock:
    if min(arguments.num_heads, arguments.head_dim) < 1:
        raise UsageError("--num-heads and --head-dim must be at least 1")
    config = AttentionConfig(
        embed_dim=arguments.num_heads * arguments.head_dim,
        has_in_proj=False,
        has_out_proj=False,
        **variant_fields(arguments),
    )
    return make_block(config, {}, source="sdpa")


def _precision(arguments: Namespace) -> str:
    precision: str = arguments.quantize or arguments.dtype
    return precision
