"""Arrays survive the wire, and messages that describe none are refused before any is made."""

from __future__ import annotations

import math
import pickle
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polyhead.v1.attention_pb2 import AttendRequest, DataType, Tensor
from polyhead.wire.tensors import (
    MAX_RANK,
    TensorError,
    dtype_name,
    encode_elements,
    parse_dtype,
    tensor_head,
    to_array,
    to_tensor,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NAMES = ["float32", "float16", "bfloat16", "float64", "bool", "int32", "int64"]
ITEM_SIZES = dict(zip(NAMES, [4, 2, 2, 8, 1, 4, 8], strict=True))
NUMPY_DTYPES = ["<f4", ">f4", "<f2", ">f2", "<f8", ">f8", "?", "<i4", ">i4", "<i8", ">i8"]

shapes = hnp.array_shapes(min_dims=1, max_dims=MAX_RANK, min_side=1, max_side=3)


def test_a_tensor_is_row_major_and_little_endian():
    tensor = to_tensor(np.array([[1.0, 2.0], [3.0, 4.0]], dtype=">f4", order="F"))
    assert tensor.dtype == DataType.DATA_TYPE_FLOAT
    assert list(tensor.shape) == [2, 2]
    assert tensor.data.hex(" ", 4) == "0000803f 00000040 00004040 00008040"


@given(hnp.arrays(st.sampled_from(NUMPY_DTYPES), shapes))
def test_what_is_written_is_read(array):
    read = to_array(to_tensor(array))
    assert read.dtype == array.dtype.newbyteorder("=")
    assert not read.flags.writeable
    np.testing.assert_array_equal(read, array)


@given(hnp.arrays("f4", hnp.array_shapes(min_dims=2, max_dims=4, min_side=2, max_side=4)))
def test_memory_layout_does_not_matter(array):
    for view in (array.T, array[::-1], array[..., ::2], np.asfortranarray(array)):
        np.testing.assert_array_equal(to_array(to_tensor(view)), view)


@given(hnp.arrays("<u2", shapes))
def test_every_bfloat16_is_read_exactly(bits):
    tensor = Tensor(dtype=DataType.DATA_TYPE_BFLOAT16, shape=bits.shape, data=bits.tobytes())
    read = to_array(tensor)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, bits.view(BFLOAT16).astype(np.float32))


@given(hnp.arrays("f4", shapes))
def test_float32_is_rounded_to_bfloat16_as_ml_dtypes_does(array):
    tensor = to_tensor(array, DataType.DATA_TYPE_BFLOAT16)
    with np.errstate(all="ignore"):
        expected = array.astype(BFLOAT16)
    np.testing.assert_array_equal(to_array(tensor), expected.astype(np.float32))


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
def test_no_nan_becomes_infinite_or_zero_in_bfloat16(bits):
    array = np.array([bits], np.uint32).view(np.float32)
    assert np.isnan(to_array(to_tensor(array, DataType.DATA_TYPE_BFLOAT16))).all()


@given(hnp.arrays(BFLOAT16, shapes, elements=st.floats(width=16).map(BFLOAT16.type)))
def test_bfloat16_arrays_go_as_they_are(array):
    tensor = to_tensor(array)
    assert tensor.dtype == DataType.DATA_TYPE_BFLOAT16
    assert tensor.data == array.tobytes()


def test_bfloat16_arrays_convert_and_need_no_layout():
    array = np.arange(6).astype(BFLOAT16).reshape(2, 3).T
    tensor = to_tensor(array, DataType.DATA_TYPE_DOUBLE)
    np.testing.assert_array_equal(to_array(tensor), array.astype(np.float64))
    np.testing.assert_array_equal(to_array(to_tensor(array)), array.astype(np.float32))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_conversion_beyond_the_range_gives_infinity_silently(name):
    read = to_array(to_tensor(np.array([1e300, -1e300, np.nan]), parse_dtype(name)))
    np.testing.assert_array_equal(read, [np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("array", [np.ones(2, bool), np.ones(2, np.float32)])
def test_bool_and_floats_do_not_convert(array):
    is_bool = array.dtype == bool
    target = DataType.DATA_TYPE_FLOAT if is_bool else DataType.DATA_TYPE_BOOL
    with pytest.raises(TensorError, match="does not convert") as caught:
        to_tensor(array, target)
    assert (caught.value.reason, caught.value.field) == ("UNSUPPORTED_DTYPE", "dtype")


@pytest.mark.parametrize("dtype", ["i2", "u1", "c8", "S3", object, "M8[s]", np.longdouble])
def test_other_dtypes_are_refused_by_name(dtype):
    with pytest.raises(TensorError, match="expected one of float32, float16, bfloat16") as caught:
        to_tensor(np.zeros(2, dtype))
    assert (caught.value.reason, caught.value.field) == ("UNSUPPORTED_DTYPE", "dtype")


@pytest.mark.parametrize("array", [np.float32(1), np.zeros((2, 0), "f4"), np.ones((1,) * 9, "f4")])
def test_arrays_without_axes_or_elements_are_refused(array):
    with pytest.raises(TensorError) as caught:
        to_tensor(np.asarray(array))
    assert (caught.value.reason, caught.value.field) == ("INVALID_SHAPE", "shape")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("off_by", [-1, 1])
def test_one_byte_too_few_or_too_many_is_refused(name, off_by):
    expected = 6 * ITEM_SIZES[name]
    tensor = Tensor(dtype=parse_dtype(name), shape=[2, 3], data=bytes(expected + off_by))
    with pytest.raises(TensorError, match=f"takes {expected} bytes; got {expected + off_by}") as e:
        to_array(tensor)
    assert (e.value.reason, e.value.field) == ("BYTE_SIZE_MISMATCH", "data")


@pytest.mark.parametrize(
    "shape", [[2**4, 2**60 + 2], [2**2, 2**60 + 2], [2**62], [2**31, 2**31, 2**2], [2**40] * 8]
)
@pytest.mark.parametrize("size", [0, 32, 128])
def test_shapes_that_overflow_are_refused(shape, size):
    tensor = Tensor(dtype=DataType.DATA_TYPE_FLOAT, shape=shape, data=bytes(size))
    with pytest.raises(TensorError, match=f"takes {math.prod(shape) * 4} bytes") as caught:
        to_array(tensor)
    assert caught.value.reason == "BYTE_SIZE_MISMATCH"


@pytest.mark.parametrize("shape", [[], [0], [2, 0, 3], [-1, -4], [-(2**63)], [1] * 9, [1] * 1000])
def test_shapes_of_no_array_are_refused(shape):
    tensor = Tensor(dtype=DataType.DATA_TYPE_FLOAT, shape=shape, data=bytes(4))
    with pytest.raises(TensorError) as caught:
        to_array(tensor)
    assert (caught.value.reason, caught.value.field) == ("INVALID_SHAPE", "shape")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("dtype", [0, 2, 99, -1])
def test_dtypes_of_no_array_are_refused(dtype):
    with pytest.raises(TensorError) as caught:
        to_array(Tensor(dtype=dtype, shape=[1], data=bytes(4)))
    assert (caught.value.reason, caught.value.field) == ("UNSUPPORTED_DTYPE", "dtype")


@pytest.mark.parametrize("byte", [2, 255])
def test_a_bool_is_zero_or_one(byte):
    tensor = Tensor(dtype=DataType.DATA_TYPE_BOOL, shape=[3], data=bytes([0, 1, byte]))
    with pytest.raises(TensorError, match=f"0 or 1; got a byte of {byte}") as caught:
        to_array(tensor)
    assert (caught.value.reason, caught.value.field) == ("INVALID_VALUE", "data")


@given(st.builds(Tensor, dtype=st.integers(0, 17), shape=st.lists(st.integers(-3, 9)),
                 data=st.binary(max_size=64)))  # fmt: skip
def test_any_message_is_an_array_or_a_tensor_error(tensor):
    with suppress(TensorError):
        assert list(to_array(tensor).shape) == list(tensor.shape)


@given(hnp.arrays(st.sampled_from(NUMPY_DTYPES), shapes))
def test_a_tensor_written_by_hand_is_the_one_that_protobuf_writes(array):
    head = tensor_head(4, parse_dtype(array.dtype), array.shape)
    data = head + encode_elements(array).tobytes()
    assert AttendRequest.FromString(data).query == to_tensor(array)


def test_dtypes_have_the_names_that_numpy_users_know():
    for name in NAMES:
        assert dtype_name(parse_dtype(name)) == name
    assert parse_dtype("half") == DataType.DATA_TYPE_FLOAT16
    assert parse_dtype(np.float64) == DataType.DATA_TYPE_DOUBLE
    assert parse_dtype(ml_dtypes.bfloat16) == DataType.DATA_TYPE_BFLOAT16
    assert parse_dtype(np.dtype(">f8")) == DataType.DATA_TYPE_DOUBLE


@pytest.mark.parametrize("dtype", ["int8", "nonsense", None, 7, ml_dtypes.float8_e5m2])
def test_no_other_dtype_has_a_name(dtype):
    with pytest.raises(TensorError, match="expected one of"):
        parse_dtype(dtype)


def test_errors_can_cross_processes():
    error = pickle.loads(pickle.dumps(TensorError("too long", "INVALID_SHAPE", "shape")))
    assert (str(error), error.reason, error.field) == ("too long", "INVALID_SHAPE", "shape")
