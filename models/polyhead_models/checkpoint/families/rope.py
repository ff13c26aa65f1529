"""Reads rotary position embeddings from config.json.

Old files have rope_theta, rope_scaling and others as separate keys. Files of transformers 5 have
rope_parameters, which holds all of them and may hold one object per layer type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_models.checkpoint.families.settings import CONFIG_FILE, Settings
from polyhead_models.checkpoint.files import CheckpointError
from polyhead_models.rotary import Rotary, RotaryError, geometric_frequencies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyhead_models.checkpoint.files import Tensors

__all__ = ["LAYER_TYPES", "Rope"]

LAYER_TYPES = ("full_attention", "sliding_attention")
SUPPORTED = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Keys and defaults of the rotary embedding in a family's config.json."""

    theta: tuple[str, float] = ("rope_theta", 10000.0)
    """Key of the base in old files, and its default."""
    local_theta: tuple[str, float] | None = None
    """The same for layers of type sliding_attention; None means the same base."""
    fraction: tuple[str, float] | None = None
    """Key of the rotated fraction of each head in old files, and its default; None means the family
    rotates whole heads and ignores partial_rotary_factor."""
    dim: tuple[str, int] | None = None
    """Key of the number of rotated dimensions, instead of a fraction, and its default."""
    is_interleaved: bool = False
    """Whether dimensions 2i and 2i + 1 form a pair."""
    only_keys: tuple[str, ...] = ()
    """The only keys that are read, in families that ignore all others; (): all keys are read."""
    stored: str = ""
    """How the name of the tensor with the frequencies ends, in families that read it; others
    compute the frequencies whatever their files hold."""
    reads_head_dim: bool = False
    """Whether the fraction is of the key head_dim, although heads have another width."""
    is_rounded_up: bool = False
    """Whether an odd number of dimensions is rotated together with the next one, by the frequencies
    of the odd number, except with yarn; in other families transformers fails."""
    scaled_layer_types: tuple[str, ...] = ()
    """Layer types to which rope_scaling applies, in families that have an embedding for each layer
    type; (): the family has one for all layers."""
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Former names of scaling types in this family, with their present names."""
    original_max_positions: int = 0
    """Longest sequence in training, for files that do not state it; 0: as in the scaling, else
    max_position_embeddings."""
    scaling: Mapping[str, Any] | None = None
    """Default scaling of files without one, if any."""

    def rotary(self, settings: Settings, layer_type: str, head_dim: int) -> Rotary:
        """Read the rotary embedding of a layer type. Raises CheckpointError."""
        if self.only_keys:
            values = {k: v for k, v in settings.values.items() if k in self.only_keys}
            settings = replace(settings, values=values)
        scaling = self._scaling(settings, layer_type)
        key, default = self.theta
        if self.local_theta and layer_type == "sliding_attention":
            key, default = self.local_theta
        theta = scaling.get("rope_theta", float, settings.get(key, float, default, default))
        stretching = self._stretching(settings, scaling)
        dim = self._dim(settings, scaling, head_dim, is_scaled=bool(stretching))
        try:
            if dim % 2 and self.is_rounded_up and stretching.get("scaling") != "yarn":
                stretching["frequencies"] = tuple(geometric_frequencies(theta, dim).tolist())
                dim += 1
            return Rotary(dim=dim, theta=theta, is_interleaved=self.is_interleaved, **stretching)
        except (RotaryError, ArithmeticError) as error:
            raise CheckpointError(
                f"{CONFIG_FILE} does not describe a rotary embedding: {error}"
            ) from error

    def as_stored(self, rotary: Rotary, tensors: Tensors) -> Rotary:
        """Use the frequencies of the files, which may be rounded. Raises CheckpointError."""
        prefixes = tensors.prefixes(self.stored) if self.stored else []
        if not prefixes:
            return rotary
        # old files have them in each layer, and transformers takes those of the first layer
        frequencies = tensors.read(f"{prefixes[0]}{self.stored}", (rotary.dim // 2,))
        if np.allclose(frequencies, rotary.inverse_frequencies(), rtol=1e-6, atol=0):
            return rotary
        return replace(rotary, frequencies=tuple(map(float, frequencies)))

    def _dim(self, settings: Settings, scaling: Settings, head_dim: int, *, is_scaled: bool) -> int:
        """Read the number of rotated dimensions of each head."""
        if self.dim:
            return settings.count(*self.dim, null=head_dim)
        key, default = self.fraction or ("partial_rotary_factor", 1.0)
        fraction = settings.get(key, float, default, default)
        fraction = scaling.get("partial_rotary_factor", float, fraction, fraction)
        if not self.fraction:
            if is_scaled and fraction != 1:
                raise CheckpointError(
                    f"{CONFIG_FILE}: partial_rotary_factor is {fraction}; with scaled rotary "
                    "embeddings, this family supports 1 only"
                )
            return head_dim
        if not 0 < fraction <= 1:
            raise CheckpointError(
                f"{CONFIG_FILE}: {fraction} of each head is rotated; expected a fraction above 0, "
                "up to 1"
            )
        if self.reads_head_dim:
            head_dim = settings.count("head_dim", head_dim, null=head_dim)
        return int(head_dim * fraction)

    def _scaling(self, settings: Settings, layer_type: str) -> Settings:
        """Return the object of config.json that describes the scaling of a layer type."""
        scaling, parameters = settings.inner("rope_scaling"), settings.inner("rope_parameters")
        if self.scaled_layer_types:
            # transformers reads truncate beside the layer types, never in the object of one
            beside = {
                key: parameters.values[key] for key in ("truncate",) if key in parameters.values
            }
            parameters = parameters.inner(layer_type)
            # "rope_type" is set, because transformers would else read the older key "type"
            values = parameters.values or {"rope_type": "default"}
            if layer_type in self.scaled_layer_types:
                values = {**values, **scaling.values}
            values = {key: value for key, value in values.items() if key != "truncate"}
            return replace(parameters, values={**values, **beside})
        selected = scaling if scaling.values else parameters
        for name in LAYER_TYPES:
            if name in selected.values:
                raise selected.error(name, "this family has one rotary embedding for all layers")
        if not selected.values and self.scaling:
            selected = replace(selected, values=self.scaling)
        return selected

    def _stretching(self, settings: Settings, scaling: Settings) -> dict[str, Any]:
        """Read the arguments of Rotary that depend on the type of scaling."""
        key = "rope_type" if "rope_type" in scaling.values else "type"
        scaling_type = scaling.get(key, str, "default")
        scaling_type = self.aliases.get(scaling_type, scaling_type)
        match scaling_type:
            case "default":
                return {}
            case "linear":
                return {"scaling": scaling_type, "factor": scaling.get("factor", float)}
            case "dynamic":
                return {
                    "scaling": scaling_type,
                    "factor": scaling.get("factor", float),
                    "original_max_positions": settings.count("max_position_embeddings"),
                }
            case "llama3":
                names = ("factor", "low_freq_factor", "high_freq_factor")
                arguments: dict[str, Any] = {name: scaling.get(name, float) for name in names}
            case "yarn":
                arguments = self._yarn(settings, scaling)
            case "longrope":
                arguments = self._longrope(settings, scaling)
            case _:
                raise scaling.error(key, f"supported are {', '.join(SUPPORTED)}")
        return {
            "scaling": scaling_type,
            "original_max_positions": self._original(settings, scaling),
            **arguments,
        }

    def _yarn(self, settings: Settings, scaling: Settings) -> dict[str, Any]:
        factor = self._factor(settings, scaling)
        attention_factor = scaling.get("attention_factor", float, 0.0, 0.0)
        mscale, all_dim = (
            scaling.get(key, float, 0.0, 0.0) for key in ("mscale", "mscale_all_dim")
        )
        if not attention_factor and mscale and all_dim:
            attention_factor = _attention_scale(mscale, factor) / _attention_scale(all_dim, factor)
        return {
            "factor": factor,
            "attention_factor": attention_factor,
            "beta_fast": scaling.get("beta_fast", float, 32.0, 32.0) or 32.0,
            "beta_slow": scaling.get("beta_slow", float, 1.0, 1.0) or 1.0,
            "is_truncated": scaling.get("truncate", bool, default=True, null=True),
        }

    def _longrope(self, settings: Settings, scaling: Settings) -> dict[str, Any]:
        return {
            "factor": self._factor(settings, scaling),
            "attention_factor": scaling.get("attention_factor", float, 0.0, 0.0),
            "short_factors": _numbers(scaling, "short_factor"),
            "long_factors": _numbers(scaling, "long_factor"),
        }

    def _factor(self, settings: Settings, scaling: Settings) -> float:
        """Read the factor; its default is the longest sequence divided by that of the training."""
        factor = scaling.get("factor", float, 0.0, 0.0)
        if factor:
            return factor
        return settings.count("max_position_embeddings") / self._original(settings, scaling)

    def _original(self, settings: Settings, scaling: Settings) -> int:
        """Read the longest sequence in training.

        A value outside the scaling has priority, except that transformers ignores it in families
        with an embedding for each layer type.
        """
        key = "original_max_position_embeddings"
        if settings.values.get(key) is not None and not self.scaled_layer_types:
            return settings.count(key)
        if self.original_max_positions:
            return self.original_max_positions
        if scaling.values.get(key) is not None:
            return scaling.count(key)
        return settings.count("max_position_embeddings")


def _attention_scale(mscale: float, factor: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _numbers(scaling: Settings, key: str) -> tuple[float, ...]:
    values = scaling.get(key, list)
    if not all(type(value) in {int, float} for value in values):
        raise CheckpointError(f"{CONFIG_FILE}: {scaling.path}{key} does not hold numbers only")
    return tuple(map(float, values))
