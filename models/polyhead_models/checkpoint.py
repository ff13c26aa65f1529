"""Hugging Face checkpoint folder -> AttentionBlock.

Reads ``config.json`` and, of ``model.safetensors`` or its shards, one layer's attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from polyhead_models.blocks import make_block
from polyhead_models.checkpoint_files import CheckpointError, Tensors, read_json_object
from polyhead_models.config import AttentionConfig, ConfigError
from polyhead_models.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from polyhead_models.config import AttentionBlock
    from polyhead_models.families import Family

__all__ = ["CheckpointError", "load_checkpoint"]

CONFIG_FILE = "config.json"
T = TypeVar("T", str, int, bool)


def load_checkpoint(folder: Path, layer: int, *, out_proj: bool = True) -> AttentionBlock:
    """Import the self-attention of one layer, counted from 0, of a checkpoint.

    With ``out_proj=False`` the output projection is left out: the block's output is then the
    heads' concatenated contexts. Weights stored as float16, bfloat16 or float64 become float32.

    Raises CheckpointError if the folder is no checkpoint, is damaged, or is of a family or a
    variant that is not supported, and if it has no such layer.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; expected one with {CONFIG_FILE} and model.safetensors"
        )
    settings = read_json_object(folder / CONFIG_FILE)
    family = _family(settings)
    config = _attention_config(settings, family, out_proj=out_proj)
    _check_layer(settings, family, layer)
    module = family.module.format(layer=layer)
    tensors = Tensors.of_folder(folder)
    prefix = _prefix(tensors, f"{module}.{family.projections['q_proj']}.weight")

    weights = {}
    for name, shape in config.weight_shapes().items():
        projection = name.removesuffix(".weight")
        linear = f"{prefix}{module}.{family.projections[projection]}"
        weights[f"{projection}.weight"] = tensors.read(f"{linear}.weight", shape)
        weights[f"{projection}.bias"] = tensors.read(f"{linear}.bias", shape[:1])
    return make_block(
        config,
        weights,
        source=f"checkpoint {_folder_name(folder)}",
        family=settings["model_type"],
        layer=module,
    )


def _family(settings: Mapping[str, Any]) -> Family:
    model_type = _value(settings, "model_type", str)
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{CONFIG_FILE}: model_type is {model_type!r}, which is not supported; expected one of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES[model_type]
    for key, supported in family.supported.items():
        if settings.get(key, supported) != supported:
            raise CheckpointError(
                f"{CONFIG_FILE}: {key} is {settings[key]!r}; only {supported!r} is supported"
            )
    return family


def _attention_config(
    settings: Mapping[str, Any], family: Family, *, out_proj: bool
) -> AttentionConfig:
    is_causal = False
    if family.is_causal is not None and family.is_causal in settings:
        is_causal = _value(settings, family.is_causal, bool)
    try:
        return AttentionConfig(
            embed_dim=_value(settings, family.embed_dim, int),
            num_heads=_value(settings, family.num_heads, int),
            is_causal=is_causal,
            has_out_proj=out_proj,
        )
    except ConfigError as error:
        raise CheckpointError(f"{CONFIG_FILE} describes no attention block: {error}") from error


def _check_layer(settings: Mapping[str, Any], family: Family, layer: int) -> None:
    num_layers = _value(settings, family.num_layers, int)
    if num_layers < 1:
        raise CheckpointError(f"{CONFIG_FILE}: {family.num_layers} is {num_layers}; expected 1 up")
    if not 0 <= layer < num_layers:
        raise CheckpointError(
            f"there is no layer {layer}; this checkpoint has the layers 0 to {num_layers - 1}"
        )


def _value(settings: Mapping[str, Any], key: str, expected: type[T]) -> T:
    if key not in settings:
        raise CheckpointError(f"{CONFIG_FILE} has no {key}; expected a value ({expected.__name__})")
    value: T = settings[key]
    # not isinstance: a bool is an int in Python, and never one here
    if type(value) is not expected:
        raise CheckpointError(f"{CONFIG_FILE}: {key} is {value!r}; expected {expected.__name__}")
    return value


def _prefix(tensors: Tensors, name: str) -> str:
    """Find what this checkpoint puts before its tensors' names, such as ``bert.`` or nothing."""
    prefixes = tensors.prefixes(name)
    if not prefixes:
        raise CheckpointError(
            f"{tensors.origin} holds no tensor {name}, nor any whose name ends so; is it the "
            f"checkpoint that {CONFIG_FILE} describes?"
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{tensors.origin} holds several models, whose tensors' names begin with "
            f"{', '.join(map(repr, prefixes))}; save the one you mean as a checkpoint of its own"
        )
    return prefixes[0]


def _folder_name(folder: Path) -> str:
    """Name a folder, also one given as ``.``; what is no Unicode in it becomes ``?``."""
    return folder.resolve().name.encode(errors="replace").decode()
