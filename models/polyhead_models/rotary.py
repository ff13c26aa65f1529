"""Rotary position embeddings: the rotation of each pair of a head's dimensions by position.

Su et al., "RoFormer", 2021. The scalings to longer sequences are those of Hugging Face
transformers' ``modeling_rope_utils``. It imports only the standard library and NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - the configuration's reader resolves annotations

__all__ = [
    "SCALINGS",
    "Rotary",
    "RotaryError",
    "cosines_and_sines",
    "geometric_frequencies",
    "highest_position",
]

SCALINGS = ("none", "linear", "dynamic", "llama3", "yarn", "longrope")
"""Methods of scaling rotary embeddings to sequences longer than those of the training."""

_MIN, _MAX = 1e-9, 1e12
"""Bounds of every number: wide enough for any model, and all results stay finite in float32."""


class RotaryError(ValueError):
    """Values that do not describe a rotary embedding."""


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """A rotary position embedding: the rotation of queries and keys by their positions.

    Raises RotaryError if the values do not describe a rotary embedding.
    """

    dim: int
    """Number of leading dimensions of each head that are rotated, even; the rest stay unrotated."""
    theta: float = 10000.0
    """Base of the geometric series of wavelengths."""
    is_interleaved: bool = False
    """Which dimensions form a pair: 2i and 2i + 1 if true, i and i + dim / 2 if not."""
    scaling: str = "none"
    """One of SCALINGS."""
    factor: float = 1.0
    """How many times longer sequences may be than in training (all scalings)."""
    original_max_positions: int = 0
    """Longest sequence of the training (dynamic, llama3, yarn, longrope)."""
    low_freq_factor: float = 1.0
    """Wavelengths above original_max_positions / low_freq_factor are stretched fully (llama3)."""
    high_freq_factor: float = 4.0
    """Wavelengths below original_max_positions / high_freq_factor are left alone (llama3)."""
    beta_fast: float = 32.0
    """Dimensions that turn more often than this in training are left alone (yarn)."""
    beta_slow: float = 1.0
    """Dimensions that turn less often than this in training are stretched fully (yarn)."""
    is_truncated: bool = True
    """Whether the dimensions computed from beta_fast and beta_slow are rounded (yarn)."""
    attention_factor: float = 0.0
    """Factor on rotated queries and on rotated keys; 0: the scaling's default for ``factor`` (yarn,
    longrope), otherwise 1."""
    short_factors: tuple[float, ...] = ()
    """Stretch factors of the dim / 2 wavelengths up to original_max_positions (longrope)."""
    long_factors: tuple[float, ...] = ()
    """The same for sequences beyond original_max_positions (longrope)."""
    frequencies: tuple[float, ...] = ()
    """Radians that each of the dim / 2 pairs turns per position before scaling; (): by theta."""

    def __post_init__(self) -> None:
        for number in fields(self):
            if number.type == "float":  # an int too, so that equal values give equal JSON
                object.__setattr__(self, number.name, float(getattr(self, number.name)))
        if self.dim < 2 or self.dim % 2:
            raise RotaryError(f"rotary dim is {self.dim}; it must be even and at least 2")
        if self.scaling not in SCALINGS:
            raise RotaryError(
                f"rotary scaling is {self.scaling!r}; expected one of {', '.join(SCALINGS)}"
            )
        if self.scaling not in {"none", "linear"} and self.original_max_positions < 1:
            raise RotaryError(f"rotary scaling {self.scaling} needs original_max_positions")
        if self.original_max_positions < 0:
            raise RotaryError(
                f"rotary original_max_positions is {self.original_max_positions}; it must not be "
                "negative"
            )
        _check_number("factor", self.factor)
        if self.attention_factor == 0.0:
            object.__setattr__(self, "attention_factor", self._prescribed_attention_factor())
        self._check_numbers()
        self._check_factors()

    def _check_numbers(self) -> None:
        numbers = ("theta", "attention_factor")
        bounds = ("low_freq_factor", "high_freq_factor", "beta_slow", "beta_fast")
        for name in (*numbers, *bounds):
            _check_number(name, getattr(self, name))
        if self.theta <= 1.0:
            raise RotaryError(f"rotary theta is {self.theta}; it must be above 1")
        for upper, lower in (("high_freq_factor", "low_freq_factor"), ("beta_fast", "beta_slow")):
            number, bound = getattr(self, upper), getattr(self, lower)
            if number <= bound:
                raise RotaryError(f"rotary {upper} is {number}; it must be above {lower}, {bound}")

    def _check_factors(self) -> None:
        if self.frequencies:
            self._check_pairs("frequencies", self.frequencies)
        if self.scaling == "dynamic" and (self.frequencies or self.dim < 4):
            raise RotaryError(
                "rotary scaling dynamic changes theta, so it needs a dim of at least 4, and no "
                "frequencies"
            )
        factors = self.short_factors, self.long_factors
        if self.scaling != "longrope":
            if any(factors):
                raise RotaryError("rotary short_factors and long_factors are for scaling longrope")
            return
        for name, values in zip(("short_factors", "long_factors"), factors, strict=True):
            self._check_pairs(name, values)

    def _check_pairs(self, name: str, values: tuple[float, ...]) -> None:
        if len(values) != self.dim // 2:
            raise RotaryError(
                f"rotary {name} has {len(values)} entries; expected dim / 2 = {self.dim // 2}"
            )
        for value in values:
            _check_number(name, value)

    def inverse_frequencies(self, *, max_position: int = 0) -> NDArray[np.float32]:
        """Radians that each pair turns per position: (dim / 2,).

        ``max_position``: result of highest_position for the call, if depends_on_length.
        """
        unscaled = np.array(self.frequencies)
        if not self.frequencies:
            unscaled = geometric_frequencies(self.theta, self.dim)
        match self.scaling:
            case "linear":
                scaled = unscaled / self.factor
            case "dynamic":
                scaled = self._dynamic(max_position + 1)
            case "llama3":
                scaled = self._llama3(unscaled)
            case "yarn":
                scaled = self._yarn(unscaled)
            case "longrope":
                is_long = max_position >= self.original_max_positions
                scaled = unscaled / np.array(self.long_factors if is_long else self.short_factors)
            case _:
                scaled = unscaled
        return scaled.astype(np.float32)

    @property
    def pair_frequencies(self) -> tuple[float, ...]:
        """Radians that each pair turns per position, scaled; (): theta and factor suffice.

        With dynamic they hold for calls of up to original_max_positions.
        """
        if self.scaling in {"none", "linear", "dynamic"} and not self.frequencies:
            return ()
        return tuple(map(float, self.inverse_frequencies()))

    @property
    def long_pair_frequencies(self) -> tuple[float, ...]:
        """The same for positions from original_max_positions on (longrope); else empty."""
        if self.scaling != "longrope":
            return ()
        long = self.inverse_frequencies(max_position=self.original_max_positions)
        return tuple(map(float, long))

    @property
    def depends_on_length(self) -> bool:
        """Whether frequencies depend on the highest position of a call."""
        return self.scaling in {"dynamic", "longrope"}

    def _prescribed_attention_factor(self) -> float:
        if self.factor <= 1.0:
            return 1.0
        match self.scaling:
            case "yarn":
                return 0.1 * math.log(self.factor) + 1.0
            case "longrope" if self.original_max_positions > 1:
                return math.sqrt(
                    1.0 + math.log(self.factor) / math.log(self.original_max_positions)
                )
            case _:
                return 1.0

    def _dynamic(self, length: int) -> NDArray[np.float64]:
        """Raise theta with the length of sequences beyond the training's (NTK-aware scaling)."""
        if length <= self.original_max_positions:
            return geometric_frequencies(self.theta, self.dim)
        # float32 as in the models' own code, because roundings of theta change all frequencies
        factor, less_one = np.float32(self.factor), np.float32(self.factor - 1)
        growth = factor * np.float32(length) / np.float32(self.original_max_positions) - less_one
        theta = np.float32(self.theta) * growth ** np.float32(self.dim / (self.dim - 2))
        return geometric_frequencies(float(theta), self.dim)

    def _llama3(self, unscaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Stretch long wavelengths, leave short ones, and blend between (Llama 3.1)."""
        wavelength = 2 * math.pi / unscaled
        low, high = self.low_freq_factor, self.high_freq_factor
        weight_of_original = (self.original_max_positions / wavelength - low) / (high - low)
        weight_of_original = np.clip(weight_of_original, 0.0, 1.0)
        return (1 - weight_of_original) * unscaled / self.factor + weight_of_original * unscaled

    def _yarn(self, unscaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Stretch slow dimensions, leave fast ones, and blend between (Peng et al., 2023)."""

        def dimension_that_turns(times: float) -> float:
            longest = self.original_max_positions / (times * 2 * math.pi)
            return self.dim * math.log(longest) / (2 * math.log(self.theta))

        low = dimension_that_turns(self.beta_fast)
        high = dimension_that_turns(self.beta_slow)
        if self.is_truncated:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        if low == high:
            high += 0.001  # avoids a division by zero
        pairs = np.arange(self.dim // 2, dtype=np.float64)
        stretched = np.clip((pairs - low) / (high - low), 0.0, 1.0)
        return stretched * unscaled / self.factor + (1 - stretched) * unscaled


def geometric_frequencies(theta: float, dim: int) -> NDArray[np.float64]:
    """Radians that each pair of ``dim`` dimensions turns per position without scaling.

    The result has dim / 2 entries, rounded up.
    """
    # rounded to float32 where the models' own code rounds
    exponents = (np.arange(0, dim, 2) / dim).astype(np.float32).astype(np.float64)
    unscaled: NDArray[np.float64] = (1.0 / (theta**exponents).astype(np.float32)).astype(np.float64)
    return unscaled


def highest_position(*positions: NDArray[np.int64]) -> int:
    """Return the highest position of a call's queries and keys, for inverse_frequencies.

    Queries and keys must turn by the same frequencies, so it holds for all sequences of a call,
    including their padding, as in transformers.
    """
    return max((int(p.max()) for p in positions if p.size), default=0)


def _check_number(name: str, number: float) -> None:
    if not _MIN <= number <= _MAX:
        raise RotaryError(
            f"rotary {name} is {number}; it must be positive, from {_MIN:g} to {_MAX:g}"
        )


def cosines_and_sines(
    rotary: Rotary, positions: NDArray[np.int64], *, max_position: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and sine of every pair's angle: positions (…) -> two of (…, dim / 2).

    ``max_position``: result of highest_position for the whole call. Angles are rounded to float32,
    because models are trained with such angles: at position 8192 the rounding amounts to 0.0005
    radians, so exact angles would give other results than the model's own.
    """
    frequencies = rotary.inverse_frequencies(max_position=max_position)
    angles = positions.astype(np.float32)[..., np.newaxis] * frequencies
    wide = angles.astype(np.float64)
    return np.cos(wide) * rotary.attention_factor, np.sin(wide) * rotary.attention_factor
