"""Describes attention blocks in words, for tables of a server's models and export reports."""

from __future__ import annotations

import math
from typing import Protocol

__all__ = ["heads_text", "missing_projections", "special_traits", "visibility"]


class _Rotary(Protocol):
    """The common fields of polyhead.RotarySpec and the exporter's Rotary."""

    @property
    def dim(self) -> int: ...
    @property
    def theta(self) -> float: ...
    @property
    def is_interleaved(self) -> bool: ...
    @property
    def scaling(self) -> str: ...
    @property
    def factor(self) -> float: ...


class _Block(Protocol):
    """The common fields of polyhead.AttentionSpec and the exporter's AttentionConfig."""

    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def is_causal(self) -> bool: ...
    @property
    def sliding_window(self) -> int: ...
    @property
    def rotary(self) -> _Rotary | None: ...
    @property
    def has_alibi(self) -> bool: ...
    @property
    def relative_buckets(self) -> int: ...
    @property
    def qk_norm_eps(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def softcap(self) -> float: ...
    @property
    def has_sinks(self) -> bool: ...
    @property
    def has_in_proj(self) -> bool: ...
    @property
    def has_out_proj(self) -> bool: ...


def heads_text(block: _Block) -> str:
    """Return the number of heads, or ``4/2`` if keys and values have fewer heads."""
    if block.num_kv_heads == block.num_heads:
        return str(block.num_heads)
    return f"{block.num_heads}/{block.num_kv_heads}"


def visibility(block: _Block) -> str:
    """Return ``causal`` or ``bidirectional``."""
    return "causal" if block.is_causal else "bidirectional"


def missing_projections(block: _Block) -> str:
    """Name the missing projections; empty if the block has all of them."""
    if not block.has_in_proj:
        return "no projections"
    return "" if block.has_out_proj else "no output projection"


def special_traits(block: _Block) -> list[str]:
    """List differences from plain multi-head attention, such as ``sliding window 4096``."""
    traits = []
    if block.sliding_window:
        traits.append(f"sliding window {block.sliding_window}")
    if block.rotary:
        traits.append(_rotary(block.rotary, block.head_dim))
    if block.has_alibi:
        traits.append("ALiBi")
    if block.relative_buckets:
        traits.append(f"{block.relative_buckets} relative position buckets")
    if block.qk_norm_eps:
        traits.append("q/k norm")
    if not math.isclose(block.scale**2 * block.head_dim, 1, rel_tol=1e-6):
        traits.append(f"scale {block.scale:.4g}")
    if block.softcap:
        traits.append(f"softcap {block.softcap:g}")
    if block.has_sinks:
        traits.append("sinks")
    return traits


def _rotary(rotary: _Rotary, head_dim: int) -> str:
    details = [f"theta {rotary.theta:g}"]
    if rotary.dim != head_dim:
        details.insert(0, f"{rotary.dim} of {head_dim} dimensions")
    if rotary.is_interleaved:
        details.append("interleaved")
    if rotary.scaling != "none":
        details.append(f"{rotary.scaling} x{rotary.factor:g}")
    return f"rotary ({', '.join(details)})"
