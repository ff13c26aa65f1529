"""How config.json describes rotary position embeddings -> Rotary.

Old files: rope_theta, rope_scaling and others beside each other. Files of transformers 5: all in
rope_parameters, which may hold one object for each type of layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from polyhead_models.checkpoint.families.settings import CONFIG_FILE, Settings
from polyhead_models.checkpoint.files import CheckpointError
from polyhead_models.rotary import Rotary, RotaryError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LAYER_TYPES", "Rope"]

LAYER_TYPES = ("full_attention", "sliding_attention")
SUPPORTED = ("default", "linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """What a family's config.json calls its rotary embedding, and what it may leave out."""

    theta: tuple[str, float] = ("rope_theta", 10000.0)
    """Key of the base in old files, and the base of those without it."""
    local_theta: tuple[str, float] | None = None
    """The same for layers of type sliding_attention; None: they have the same base."""
    fraction: tuple[str, float] = ("partial_rotary_factor", 1.0)
    """Key of the part of each head that is rotated in old files, and the part in those without."""
    dim: tuple[str, int] | None = None
    """Key of the number of dimensions that are rotated, instead of their part of each head."""
    is_interleaved: bool = False
    """Whether dimensions 2i and 2i + 1 form a pair."""
    is_local_plain: bool = False
    """Whether the scaling is not for layers of type sliding_attention, unless it names them."""
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Types of scaling that this family once called otherwise."""
    original_max_positions: int = 0
    """Longest sequence of the training in files that do not state it; 0: max_position_embeddings,
    unless the scaling states it."""
    scaling: Mapping[str, Any] | None = None
    """The scaling in files that have none; None: none."""

    def rotary(self, settings: Settings, layer_type: str, head_dim: int) -> Rotary:
        """Read the rotary embedding of layers of this type. Raises CheckpointError."""
        scaling = self._scaling(settings, layer_type)
        key, default = self.theta
        if self.local_theta and layer_type == "sliding_attention":
            key, default = self.local_theta
        theta = scaling.get("rope_theta", float, settings.get(key, float, default))
        try:
            return Rotary(
                dim=self._dim(settings, scaling, head_dim),
                theta=theta,
                is_interleaved=self.is_interleaved,
                **self._stretching(settings, scaling),
            )
        except (RotaryError, ArithmeticError) as error:
            raise CheckpointError(
                f"{CONFIG_FILE} describes no rotary embedding: {error}"
            ) from error

    def _dim(self, settings: Settings, scaling: Settings, head_dim: int) -> int:
        """Read how many dimensions of each head are rotated."""
        if self.dim:
            return settings.count(*self.dim, null=head_dim)
        key, default = self.fraction
        fraction = settings.get(key, float, default, default)
        fraction = scaling.get("partial_rotary_factor", float, fraction, fraction)
        if not 0 < fraction <= 1:
            raise CheckpointError(
                f"{CONFIG_FILE}: {fraction} of each head is rotated; expected a part above 0, up "
                "to 1"
            )
        return int(head_dim * fraction)

    def _scaling(self, settings: Settings, layer_type: str) -> Settings:
        """Find the object that describes the scaling, for this type of layer."""
        for key in ("rope_scaling", "rope_parameters"):
            found = settings.inner(key)
            if found.values:
                break
        if any(name in found.values for name in LAYER_TYPES):
            found = found.inner(layer_type)
        elif self.is_local_plain and layer_type == "sliding_attention":
            found = Settings({})
        elif not found.values and self.scaling:
            found = Settings(self.scaling, found.path)
        return found

    def _stretching(self, settings: Settings, scaling: Settings) -> dict[str, Any]:
        """Read what differs from one type of scaling to the next, as arguments of Rotary."""
        key = "rope_type" if "rope_type" in scaling.values else "type"
        scaling_type = scaling.get(key, str, "default")
        scaling_type = self.aliases.get(scaling_type, scaling_type)
        match scaling_type:
            case "default":
                return {}
            case "linear":
                return {"scaling": scaling_type, "factor": scaling.get("factor", float)}
            case "llama3":
                names = ("factor", "low_freq_factor", "high_freq_factor")
                read: dict[str, Any] = {name: scaling.get(name, float) for name in names}
            case "yarn":
                read = self._yarn(settings, scaling)
            case "longrope":
                read = self._longrope(settings, scaling)
            case _:
                raise scaling.error(key, f"supported are {', '.join(SUPPORTED)}")
        return {
            "scaling": scaling_type,
            "original_max_positions": self._original(settings, scaling),
            **read,
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
        """Read the factor; without one it is how much longer sequences may be than in training."""
        factor = scaling.get("factor", float, 0.0, 0.0)
        if factor:
            return factor
        return settings.count("max_position_embeddings") / self._original(settings, scaling)

    def _original(self, settings: Settings, scaling: Settings) -> int:
        """Read the longest sequence of the training; what stands outside the scaling prevails."""
        key = "original_max_position_embeddings"
        if settings.values.get(key) is not None:
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
