"""A workload's requests, prepared before the load starts so that sending one costs little."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.bench.plan import Workload
    from polyhead.types import AttentionSpec

__all__ = ["Payload", "input_widths", "largest_payload", "make_payloads"]

_MIN_REQUESTS = 1024
"""Smallest number of requests made; they are sent again and again."""
_VARIANTS = 4
"""Number of different random embeddings for each length."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One request."""

    tokens: int
    """Number of queries: batch_size x q_seq_len."""
    arguments: dict[str, Any]
    """Arguments of AsyncClient.attend."""


def input_widths(spec: AttentionSpec) -> tuple[int, int | None, int | None]:
    """Return the widths of query, key and value; None for an array that defaults to another.

    A model without input projections gets all three, because real callers send all three.
    """
    if not spec.has_in_proj or spec.vdim != spec.kdim:  # a value cannot be sent without a key
        return spec.embed_dim, spec.kdim, spec.vdim
    return spec.embed_dim, None if spec.kdim == spec.embed_dim else spec.kdim, None


def make_payloads(workload: Workload, *, seed: int = 0) -> list[Payload]:
    """Make requests in random order, equally many of each length.

    All embeddings are views of one buffer of normally distributed values.
    """
    generator = np.random.default_rng(seed)
    repeats = max(_VARIANTS, math.ceil(_MIN_REQUESTS / len(workload.lengths)))
    values = _random_values(workload, generator)
    by_length = [
        [_make_payload(workload, length, values[variant:]) for variant in range(_VARIANTS)]
        for length in workload.lengths
    ]
    payloads = [variants[repeat % _VARIANTS] for variants in by_length for repeat in range(repeats)]
    return [payloads[index] for index in generator.permutation(len(payloads))]


def largest_payload(workload: Workload) -> Payload:
    """Make the workload's largest request, which exceeds the server's limits if any does."""
    values = _random_values(workload, np.random.default_rng(0))
    return _make_payload(workload, max(workload.lengths), values)


def _random_values(workload: Workload, generator: np.random.Generator) -> NDArray[Any]:
    """Draw enough values for the arrays of the longest request, and for the variants' offsets."""
    width = sum(width or 0 for width in workload.widths)
    count = workload.batch_size * max(workload.lengths) * width + _VARIANTS
    return generator.standard_normal(count, np.float32).astype(workload.dtype)


def _make_payload(workload: Workload, length: int, values: NDArray[Any]) -> Payload:
    arguments: dict[str, Any] = {
        "model": workload.model,
        "version": workload.version,
        "need_weights": workload.need_weights,
    }
    start = 0
    for name, width in zip(("query", "key", "value"), workload.widths, strict=True):
        if width is not None:
            shape = (workload.batch_size, length, width)
            stop = start + math.prod(shape)
            arguments[name] = values[start:stop].reshape(shape)
            start = stop
    return Payload(tokens=workload.batch_size * length, arguments=arguments)
