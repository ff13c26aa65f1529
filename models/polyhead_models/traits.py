"""What is special about an attention block, in words: for reports and tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyhead_models.config import AttentionConfig
    from polyhead_models.rotary import Rotary

__all__ = ["special_traits", "visibility"]


def visibility(config: AttentionConfig) -> str:
    """Say in which directions queries see."""
    return "causal" if config.is_causal else "bidirectional"


def special_traits(config: AttentionConfig) -> list[str]:
    """List what plain multi-head attention has not, such as ``sliding window 4096``."""
    traits = []
    if config.sliding_window:
        traits.append(f"sliding window {config.sliding_window}")
    if config.rotary:
        traits.append(_rotary(config.rotary, config.head_dim))
    if config.has_alibi:
        traits.append("ALiBi")
    if config.relative_buckets:
        traits.append(f"{config.relative_buckets} relative position buckets")
    if config.qk_norm_eps:
        traits.append("q/k norm")
    if not math.isclose(config.scale, 1 / math.sqrt(config.head_dim), rel_tol=1e-6):
        traits.append(f"scale {config.scale:.4g}")
    if config.softcap:
        traits.append(f"softcap {config.softcap:g}")
    if config.has_sinks:
        traits.append("sinks")
    return traits


def _rotary(rotary: Rotary, head_dim: int) -> str:
    details = [f"theta {rotary.theta:g}"]
    if rotary.dim != head_dim:
        details.insert(0, f"{rotary.dim} of {head_dim} dimensions")
    if rotary.is_interleaved:
        details.append("interleaved")
    if rotary.scaling != "none":
        details.append(f"{rotary.scaling} x{rotary.factor:g}")
    return f"rotary ({', '.join(details)})"
