"""Fixtures that several tests of the models share."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

CODES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int32): "I32",
}


@pytest.fixture
def data() -> Path:
    """Folder of recorded data."""
    return Path(__file__).parents[2] / "data"


@pytest.fixture
def write_safetensors():
    """Return a function that writes a safetensors file: header length, header, bytes."""

    def write(file, tensors):
        header, body = {}, b""
        for name, array in tensors.items():
            start, body = len(body), body + array.tobytes()
            header[name] = {
                "dtype": CODES[array.dtype],
                "shape": list(array.shape),
                "data_offsets": [start, len(body)],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write_bytes(len(text).to_bytes(8, "little") + text + body)

    return write


def _assert_attends_as(attended, output, attn_weights):
    np.testing.assert_allclose(attended[1], attn_weights, rtol=0, atol=1e-5)
    np.testing.assert_allclose(attended[0], output, rtol=0, atol=2e-5 * np.abs(output).max())


@pytest.fixture
def assert_attends_as():
    """Return a function that compares (output, attn_weights) with recorded ones in float32."""
    return _assert_attends_as
