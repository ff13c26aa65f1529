"""Messages read by polyhead, and the same messages read by protobuf alone: they must agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from decoding import Decoder
from google.protobuf.message import DecodeError

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import TensorError, to_array
from polyhead_server.call import TENSORS
from polyhead_server.codec.request_fields import read_call
from polyhead_server.errors import InvalidRequestError

LIMITS = {"TOO_MANY", "INVALID_VALUE"}
"""Reasons of refusals that protobuf knows nothing of."""


class Reading(NamedTuple):
    """What is read of an AttendRequest."""

    call: object
    request_id: str
    arrays: dict


def read(data):
    """Read an AttendRequest as the server does, by a decoder that has read nothing before."""
    return reading_of(Decoder().attend(data))


def reading_of(request):
    """Return what a request holds that polyhead has read."""
    return Reading(request.call, request.request_id, request.arrays())


def read_by_protobuf(message):
    """Return what a message holds that protobuf has parsed."""
    call = read_call(message)
    arrays = {}
    for name in TENSORS:
        if message.HasField(name):
            try:
                arrays[name] = to_array(getattr(message, name))
            except TensorError as error:
                raise InvalidRequestError(name, str(error), error.reason) from error
    return Reading(call, message.request_id, arrays)


def parsed(message_type, data):
    """Parse a message; None if the bytes are none."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        return None


def outcome(read, *given):
    """Return what a reader returns, or the refusal that it raises."""
    try:
        return read(*given)
    except InvalidRequestError as error:
        return error


def assert_equal(got, expected):
    """Compare two outcomes; a refusal for a limit may stand where protobuf has none."""
    if isinstance(got, InvalidRequestError):
        if not isinstance(expected, InvalidRequestError):
            assert got.reason in LIMITS, f"refused: {got.field} {got} {got.reason}"
        return
    assert not isinstance(expected, InvalidRequestError), f"read in spite of: {expected}"
    assert got.call == expected.call
    assert got.request_id == expected.request_id
    assert_equal_arrays(got.arrays, expected.arrays)


def assert_equal_arrays(got, expected):
    """Compare arrays by name, to the bit."""
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name


def expected_of(data):
    """Return the outcome that an AttendRequest must have."""
    message = parsed(pb.AttendRequest, data)
    if message is None:
        return InvalidRequestError("request", "the bytes are not one", "MALFORMED")
    return outcome(read_by_protobuf, message)


def full_request(**fields):
    """Make a request that has every field."""
    rng = np.random.default_rng(7)

    def tensor(*shape, dtype=pb.DATA_TYPE_FLOAT):
        elements = rng.standard_normal(shape).astype(np.float32)
        if dtype == pb.DATA_TYPE_BOOL:
            elements = elements > 0
        if dtype in {pb.DATA_TYPE_INT32, pb.DATA_TYPE_INT64}:
            elements = elements.astype(np.int32 if dtype == pb.DATA_TYPE_INT32 else np.int64)
        return pb.Tensor(dtype=dtype, shape=shape, data=elements.tobytes())

    given = {
        "model": "river-bank",
        "request_id": "r",
        "query": tensor(1, 2, 6),
        "key": tensor(1, 3, 6),
        "value": tensor(1, 3, 6),
        "attn_mask": tensor(2, 3, dtype=pb.DATA_TYPE_BOOL),
        "kv_lengths": [2],
        "positions": tensor(2, dtype=pb.DATA_TYPE_INT32),
        "key_positions": tensor(3, dtype=pb.DATA_TYPE_INT64),
        "attn_weights": pb.AttnWeightsSelection(
            heads=[0], queries=[1], top_k=2, stage=pb.ATTN_WEIGHTS_STAGE_WEIGHTS
        ),
        "output_dtype": pb.DATA_TYPE_FLOAT16,
    }
    return pb.AttendRequest(**(given | fields))


def plain_request(**fields):
    """Make a request that the built-in model runs inline."""
    query = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT, shape=[1, 2, 6], data=bytes(48))
    return pb.AttendRequest(**({"model": "river-bank", "query": query} | fields))
