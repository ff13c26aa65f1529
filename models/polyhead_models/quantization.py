"""Rounding in blocks of lower precision, shared by the graph builder and the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LARGEST_TOKEN", "product", "quantized_weight", "rounded"]

LARGEST_TOKEN = 127.0
"""Largest magnitude of a rounded token; the graph adds 128, so that it is unsigned."""
LARGEST_WEIGHT = 64.0
"""Largest magnitude of a rounded weight. Processors with AVX2 but without VNNI add products of
unsigned and signed bytes in pairs of 16 bits, which saturate above it: 2 * 255 * 64 < 2**15."""


def rounded(x: NDArray[np.float64], precision: str) -> NDArray[np.float64]:
    """Round as a block of this precision rounds between its operations."""
    return _half(x) if precision == "float16" else x


def product(
    x: NDArray[np.float64],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    precision: str,
) -> NDArray[np.float64]:
    """Apply a linear map as a block of this precision does: ``x @ weight.T + bias``.

    int8: the weight is rounded with one scale per output and x with one scale per token, so that a
    token's result does not depend on the other tokens.
    """
    match precision:
        case "float16":
            exact = _half(x) @ _half(weight).T
            return _half(exact if bias is None else _half(exact) + _half(bias))
        case "int8":
            quantized, scale = quantized_weight(weight.T)
            token_scale = np.abs(x).max(axis=-1, keepdims=True) / LARGEST_TOKEN
            token_scale = np.maximum(token_scale, np.finfo(np.float32).tiny)
            exact = np.rint(x / token_scale) @ quantized.astype(np.float64) * token_scale * scale
        case _:
            exact = x @ weight.astype(np.float64).T
    return exact if bias is None else exact + bias


def quantized_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight (in_features, out_features) to integers; return them and their scales per output."""
    largest = np.abs(weight).max(axis=0)
    scale = np.maximum(largest, np.finfo(np.float32).tiny) / np.float32(LARGEST_WEIGHT)
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def _half(array: NDArray[Any]) -> NDArray[np.float64]:
    return array.astype(np.float16).astype(np.float64)
