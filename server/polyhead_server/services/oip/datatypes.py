"""Maps the protocol's datatypes to NumPy's dtypes and AttentionService's data types."""

from __future__ import annotations

from typing import Any

import numpy as np

from polyhead.v1 import attention_pb2 as v1

__all__ = ["BYTES", "DATATYPES", "DTYPES", "NAMES"]

BYTES = "BYTES"
"""The type of strings, each of any length."""

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # as bits, because NumPy has no such type
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The elements' form on the wire. BYTES is missing: each string follows its length."""

DATATYPES: dict[str, v1.DataType.ValueType] = {
    "FP32": v1.DATA_TYPE_FLOAT,
    "FP16": v1.DATA_TYPE_FLOAT16,
    "BF16": v1.DATA_TYPE_BFLOAT16,
    "FP64": v1.DATA_TYPE_DOUBLE,
    "BOOL": v1.DATA_TYPE_BOOL,
    "INT32": v1.DATA_TYPE_INT32,
    "INT64": v1.DATA_TYPE_INT64,
}
"""The types that an attention block's tensors may have."""

NAMES = {dtype: name for name, dtype in DATATYPES.items()}
