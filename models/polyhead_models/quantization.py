"""Rounding in blocks of lower precision, shared by the graph builder and the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LARGEST_UINT8", "product", "quantized_weight", "rounded"]

LARGEST_INT8, LARGEST_UINT8 = 127.0, 255.0
_TINY = np.finfo(np.float32).tiny


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

    int8: the weight is rounded with one scale per output, and x with one scale and one zero per
    token, so that a token's result does not depend on the other tokens.
    """
    match precision:
        case "float16":
            exact = _half(x) @ _half(weight).T
            return _half(exact if bias is None else _half(exact) + _half(bias))
        case "int8":
            integers, scale = quantized_weight(weight.T)
            low = np.minimum(x.min(axis=-1, keepdims=True), 0.0)
            high = np.maximum(x.max(axis=-1, keepdims=True), 0.0)
            token_scale = np.maximum((high - low) / LARGEST_UINT8, _TINY)
            zero = np.rint(-low / token_scale)
            tokens = np.clip(np.rint(x / token_scale) + zero, 0.0, LARGEST_UINT8) - zero
            exact = tokens @ integers.astype(np.float64) * token_scale * scale
        case _:
            exact = x @ weight.astype(np.float64).T
    return exact if bias is None else exact + bias


def quantized_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight (in_features, out_features) to 8 bits; return it and its scales per output.

    Processors with AVX2 but without VNNI multiply unsigned by signed bytes and add two neighbours
    in 16 bits, which saturate above 255 * 128. So the scale keeps the sum of two neighbours of
    equal sign within 128. It costs half a bit, where 7-bit weights would cost a whole one.
    """
    width, num_outputs = weight.shape
    pairs = np.zeros(((width + 1) // 2, 2, num_outputs), np.float32)
    pairs.reshape(-1, num_outputs)[:width] = weight
    positive = np.maximum(pairs, 0).sum(axis=1).max(axis=0)
    negative = np.minimum(pairs, 0).sum(axis=1).min(axis=0)
    scale = np.maximum(np.maximum(positive, -negative), _TINY) / np.float32(LARGEST_INT8)
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def _half(array: NDArray[Any]) -> NDArray[np.float64]:
    return array.astype(np.float16).astype(np.float64)
