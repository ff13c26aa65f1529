"""The requests of a load, prepared: sending one must cost the generator next to nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.bench.plan import Workload

__all__ = ["Payload", "largest_payload", "make_payloads"]

_FEWEST = 1024
"""Requests made, at the least; they are sent over and over."""
_VARIANTS = 4
"""Different random embeddings of each length."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One request."""

    tokens: int
    """Queries in it: batch_size x q_seq_len."""
    arguments: dict[str, Any]
    """What AsyncClient.attend takes."""


def make_payloads(workload: Workload, *, seed: int = 0) -> list[Payload]:
    """Make requests in random order, as many of each length as of any other.

    All embeddings are views of one buffer of normally distributed numbers, whatever their shapes.
    """
    generator = np.random.default_rng(seed)
    repeats = max(_VARIANTS, math.ceil(_FEWEST / len(workload.lengths)))
    numbers = _numbers(workload, generator)
    made = [
        [_payload(workload, length, numbers[variant:]) for variant in range(_VARIANTS)]
        for length in workload.lengths
    ]
    deck = [variants[repeat % _VARIANTS] for variants in made for repeat in range(repeats)]
    return [deck[place] for place in generator.permutation(len(deck))]


def largest_payload(workload: Workload) -> Payload:
    """Make the request that a server refuses if it refuses any."""
    numbers = _numbers(workload, np.random.default_rng(0))
    return _payload(workload, max(workload.lengths), numbers)


def _numbers(workload: Workload, generator: np.random.Generator) -> NDArray[Any]:
    """Make enough for all arrays of one request of the greatest length, and for the variants."""
    width = sum(width or 0 for width in workload.widths)
    count = workload.batch_size * max(workload.lengths) * width + _VARIANTS
    return generator.standard_normal(count, np.float32).astype(workload.dtype)


def _payload(workload: Workload, length: int, numbers: NDArray[Any]) -> Payload:
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
            arguments[name] = numbers[start:stop].reshape(shape)
            start = stop
    return Payload(tokens=workload.batch_size * length, arguments=arguments)
