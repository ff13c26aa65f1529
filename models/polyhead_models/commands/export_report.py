"""Formats the output of `polyhead export`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from polyhead.cli.traits import missing_projections, special_traits, visibility
from polyhead_models.whole_config import MATRIX_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.config import AttentionConfig
    from polyhead_models.export.export import ExportedModel
    from polyhead_models.export.whole import ExportedWholeModel
    from polyhead_models.whole_config import WholeConfig

__all__ = ["report_all", "report_one", "report_whole"]


def report_one(model: ExportedModel, repository: Path) -> str:
    """Describe one exported block, and give the command that serves it."""
    block, file = model.block, model.file
    config, provenance = block.config, block.provenance
    origin = [text for text in (provenance.source, provenance.family, provenance.layer) if text]
    lines = [
        ("wrote", f"{file} ({model.num_bytes:,} bytes)"),
        ("block", f"{_heads(config)}: {_widths(config)}"),
        ("", ", ".join(_traits(block))),
    ]
    if special := special_traits(config):
        lines.append(("", ", ".join(special)))
    if config.precision != "float32":
        error = provenance.precision_error
        lines.append(("", f"{config.precision}: {error:.1e} from float32, relative to the output"))
    lines.append(("source", ", ".join(origin)))
    if block.weights:
        lines.append(("weights", f"sha256 {provenance.weights_sha256}"))
    lines.append(_serve_command(repository))
    return _as_text(lines)


def report_all(names: list[str], num_bytes: int, repository: Path) -> str:
    """Describe the models of a checkpoint's layers, and give the command that serves them."""
    first_to_last = f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]
    models = f"{len(names)} models" if len(names) > 1 else "1 model"
    return _as_text(
        [
            ("wrote", f"{models} into {repository} ({num_bytes:,} bytes)"),
            ("models", first_to_last),
            _serve_command(repository),
        ]
    )


def report_whole(model: ExportedWholeModel, source: str, repository: Path) -> str:
    """Describe an exported whole model, and give the command that serves it."""
    num_bytes = sum(file.stat().st_size for file in model.folder.iterdir())
    lines = [("wrote", f"{model.folder} ({num_bytes:,} bytes)")]
    for stack in model.config.stacks:
        block = stack.layers[0][0].block
        assert block is not None
        text = f"{stack.name}: {len(stack.layers)} layers of width {stack.hidden_size}"
        lines.append(("model", f"{text}, {_heads(block)}, {visibility(block)}"))
    # a decoder's input is no choice, but goes with the encoder's
    choices = model.config.stacks[: 1 if model.config.has_memory else None]
    inputs = [
        "text" if model.has_tokenizer and stack.input == "token_ids" else stack.input
        for stack in choices
    ]
    lines.append(("input", " or ".join(inputs)))
    if "token_ids" in inputs:
        lines.append(
            ("", "no text, because the checkpoint has no tokenizer.json; transformers writes")
        )
        lines.append(("", "it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"))
    lines += [*_int8(model.config), ("source", source), _serve_command(repository)]
    return _as_text(lines)


def _int8(config: WholeConfig) -> Iterator[tuple[str, str]]:
    """Describe the kinds of matrices in int8, and the model's error against float32."""
    if config.int8:
        others = ", ".join(kind for kind in MATRIX_KINDS if kind not in config.int8)
        yield "int8", ", ".join(config.int8) + (f"; float32: {others}" if others else "")
        yield "", f"attention weights move by {config.weights_error:g} at most, on random input"


def _heads(config: AttentionConfig) -> str:
    text = f"{config.num_heads} heads of {config.head_dim}"
    if config.num_kv_heads != config.num_heads:
        text += f", {config.num_kv_heads} of keys and values"
    if config.v_head_dim != config.head_dim:
        text += f", values of {config.v_head_dim}"
    return text


def _widths(config: AttentionConfig) -> str:
    return (
        f"embed_dim {config.embed_dim}, kdim {config.kdim}, vdim {config.vdim}, output "
        f"{config.output_dim}"
    )


def _traits(block: AttentionBlock) -> list[str]:
    config = block.config
    if not config.has_in_proj:
        return [visibility(config), missing_projections(config)]
    return [
        visibility(config),
        "with biases" if any(name.endswith(".bias") for name in block.weights) else "no biases",
        missing_projections(config) or "with output projection",
    ]


def _serve_command(repository: Path) -> tuple[str, str]:
    return "next", f"polyhead serve --models {shlex.quote(str(repository))}"


def _as_text(lines: list[tuple[str, str]]) -> str:
    return "".join(f"{name:<8} {text}\n" for name, text in lines)
