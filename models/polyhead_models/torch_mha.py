"""Imports the state dict of a ``torch.nn.MultiheadAttention`` from safetensors, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.blocks import make_block
from polyhead_models.checkpoint.files import CheckpointError, Tensors, readable
from polyhead_models.config import AttentionConfig, ConfigError

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

    from polyhead_models.blocks import AttentionBlock

__all__ = ["CheckpointError", "load_torch_mha"]


def load_torch_mha(
    file: str | PathLike[str], *, num_heads: int, prefix: str = "", is_causal: bool = False
) -> AttentionBlock:
    """Import a module's weights, packed (``in_proj_weight``) or separate (``q_proj_weight``, …).

    ``num_heads`` and ``is_causal`` are arguments because a state dict does not contain them.
    ``prefix`` is the module's name in a larger model, such as ``encoder.layers.0.self_attn``; it is
    optional if the file holds only one such module.

    Raises CheckpointError if the file is damaged, if it holds no such module or several, and if the
    module has ``bias_k`` and ``bias_v`` (``add_bias_kv=True``), which an AttentionBlock lacks.
    ``add_zero_attn=True`` is not supported either, but a state dict does not show it.
    """
    file = Path(file)
    tensors = Tensors.of_file(file)
    prefix = _find_module(tensors, prefix)
    for name in ("bias_k", "bias_v"):
        if f"{prefix}{name}" in tensors.files:
            raise CheckpointError(
                f"{file} holds {prefix}{name}: modules with add_bias_kv=True are not supported"
            )
    if f"{prefix}in_proj_weight" in tensors.files:
        weights = _read_packed(tensors, prefix)
    else:
        weights = _read_separate(tensors, prefix)
    embed_dim = weights["q_proj.weight"].shape[1]
    weights["out_proj.weight"] = tensors.read(f"{prefix}out_proj.weight", (embed_dim, embed_dim))
    if f"{prefix}out_proj.bias" in tensors.files:
        weights["out_proj.bias"] = tensors.read(f"{prefix}out_proj.bias", (embed_dim,))
    if f"{prefix}in_proj_bias" in tensors.files:
        in_proj_bias = tensors.read(f"{prefix}in_proj_bias", (3 * embed_dim,))
        names = ("q_proj.bias", "k_proj.bias", "v_proj.bias")
        weights |= zip(names, np.split(in_proj_bias, 3), strict=True)
    if num_heads > 0 and embed_dim % num_heads:
        raise CheckpointError(
            f"{file} with num_heads {num_heads}: its embeddings are {embed_dim} wide, not a "
            f"multiple of {num_heads}; use the number of heads that the module was created with"
        )
    try:
        config = AttentionConfig(
            embed_dim=embed_dim,
            num_heads=num_heads,
            kdim=weights["k_proj.weight"].shape[1],
            vdim=weights["v_proj.weight"].shape[1],
            is_causal=is_causal,
        )
    except ConfigError as error:
        raise CheckpointError(f"{file} with num_heads {num_heads}: {error}") from error
    return make_block(
        config,
        weights,
        source=f"torch {readable(file.name)}",
        family="torch.nn.MultiheadAttention",
        layer=prefix.removesuffix("."),
    )


def _find_module(tensors: Tensors, prefix: str) -> str:
    """Return the prefix of the module's tensors: the given one, or the only one in the file."""
    prefixes = sorted({*tensors.prefixes("in_proj_weight"), *tensors.prefixes("q_proj_weight")})
    if not prefixes:
        raise CheckpointError(
            f"{tensors.origin} holds no torch.nn.MultiheadAttention: no tensor in_proj_weight or "
            "q_proj_weight, with or without a prefix"
        )
    if prefix and not prefix.endswith("."):
        prefix += "."
    if prefix in prefixes:
        return prefix
    modules = ", ".join(name.removesuffix(".") or "(none)" for name in prefixes)
    if prefix:
        raise CheckpointError(
            f"{tensors.origin} holds no torch.nn.MultiheadAttention at the prefix {prefix!r}; "
            f"it holds modules at: {modules}"
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{tensors.origin} holds several torch.nn.MultiheadAttention modules; choose one by "
            f"its prefix: {modules}"
        )
    return prefixes[0]


def _read_packed(tensors: Tensors, prefix: str) -> dict[str, NDArray[np.float32]]:
    """Split ``in_proj_weight`` (3 x embed_dim, embed_dim) into the weights of q, k and v."""
    name = f"{prefix}in_proj_weight"
    embed_dim = _width(tensors, name)
    in_proj_weight = tensors.read(name, (3 * embed_dim, embed_dim))
    names = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    return dict(zip(names, np.split(in_proj_weight, 3), strict=True))


def _read_separate(tensors: Tensors, prefix: str) -> dict[str, NDArray[np.float32]]:
    """Read the weights of a module with ``kdim`` or ``vdim``: each has its own input width."""
    embed_dim = _width(tensors, f"{prefix}q_proj_weight")
    weights = {}
    for projection in ("q_proj", "k_proj", "v_proj"):
        name = f"{prefix}{projection}_weight"
        weights[f"{projection}.weight"] = tensors.read(name, (embed_dim, _width(tensors, name)))
    return weights


def _width(tensors: Tensors, name: str) -> int:
    """Return the number of columns of a matrix: the width of its input."""
    shape = tensors.shape(name)
    if len(shape) != 2:
        raise CheckpointError(f"tensor {name} has shape {shape}; expected a matrix")
    return shape[1]
