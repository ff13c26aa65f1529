"""Typed contents of the Open Inference Protocol: integers that fit their type, and others."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead_server.errors import InvalidRequestError
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.services.oip.typed_contents import to_raw_contents


def request_of(datatype, **contents):
    (elements,) = contents.values()
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="x",
        datatype=datatype,
        shape=[len(elements)],
        contents=pb.InferTensorContents(**contents),
    )
    return pb.ModelInferRequest(inputs=[tensor])


@pytest.mark.parametrize("datatype", ["INT8", "INT16", "UINT8", "UINT16"])
def test_the_smallest_and_the_largest_integer_are_read(datatype):
    limits = np.iinfo(datatype.lower())
    field = "uint_contents" if datatype.startswith("U") else "int_contents"
    request = request_of(datatype, **{field: [limits.min, limits.max]})
    (raw,) = to_raw_contents(request).raw_input_contents
    assert np.frombuffer(raw, limits.dtype).tolist() == [limits.min, limits.max]


@pytest.mark.parametrize(
    ("datatype", "contents", "message"),
    [
        ("INT8", {"int_contents": [1, 128]}, "from -128 to 127 for INT8; got 128"),
        ("INT16", {"int_contents": [-32769]}, "from -32768 to 32767 for INT16; got -32769"),
        ("UINT8", {"uint_contents": [256]}, "from 0 to 255 for UINT8; got 256"),
    ],
)
def test_integers_that_the_type_does_not_hold_are_refused(datatype, contents, message):
    """With protobuf 7 NumPy wraps them: 128 was -128."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        to_raw_contents(request_of(datatype, **contents))
    assert caught.value.reason == "OUT_OF_RANGE"


def test_nan_is_read():
    (raw,) = to_raw_contents(request_of("FP32", fp32_contents=[np.nan, 1])).raw_input_contents
    assert np.isnan(np.frombuffer(raw, np.float32)).tolist() == [True, False]


@pytest.mark.parametrize("datatype", ["int64", ""])
def test_datatypes_that_the_protocol_lacks_are_named(datatype):
    with pytest.raises(InvalidRequestError, match=f"FP64, BYTES; got '{datatype}'") as caught:
        to_raw_contents(request_of(datatype, int64_contents=[1]))
    assert caught.value.field == "x.datatype"
