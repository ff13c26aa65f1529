"""key_padding_mask: True or 1 is valid; lengths where they suffice, and a mask elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead import InvalidArgumentError
from polyhead._calls.request import prepare_call
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array

QUERY = np.zeros((2, 3, 4), np.float32)
RIGHT, LEFT = [[1, 1, 0], [1, 1, 1]], [[0, 1, 1], [1, 1, 1]]


def build(mask, **arguments):
    call = prepare_call(QUERY, model="m", key_padding_mask=mask, **arguments)
    return pb.AttendRequest.FromString(call.message())


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float32])
def test_padding_on_the_right_is_lengths(dtype):
    request = build(np.array(RIGHT, dtype))
    assert list(request.kv_lengths) == [2, 3]
    assert not request.HasField("attn_mask")
    assert list(build([[0, 0, 0], [1, 0, 0]]).kv_lengths) == [0, 1]


def test_padding_elsewhere_is_a_mask():
    request = build(LEFT)
    assert not request.kv_lengths
    np.testing.assert_array_equal(
        to_array(request.attn_mask), np.array(LEFT, bool)[:, None, None, :]
    )


def test_a_mask_of_the_call_stays_in_force():
    causal = np.tri(3, dtype=bool)
    sent = to_array(build(LEFT, attn_mask=causal).attn_mask)
    assert sent.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(sent[0, 0], causal & np.array(LEFT[0], bool))
    added = to_array(build(LEFT, attn_mask=np.ones((3, 3), np.float16)).attn_mask)
    assert added.dtype == np.float16
    np.testing.assert_array_equal(added[0, 0, 0], [-np.inf, 1, 1])
    right = build(RIGHT, attn_mask=causal)
    assert list(right.kv_lengths) == [2, 3]
    assert to_array(right.attn_mask).shape == (3, 3)


def test_keys_of_their_own_have_their_own_length():
    request = build([[1, 0, 0, 0, 0]] * 2, key=np.zeros((2, 5, 7), np.float32))
    assert list(request.kv_lengths) == [1, 1]


@pytest.mark.parametrize(
    ("mask", "more", "message"),
    [
        (RIGHT, {"kv_lengths": [1, 1]}, "given with kv_lengths"),
        ([1, 1, 0], {}, r"expected \(batch_size, kv_seq_len\) = \(2, 3\); got shape \(3,\)"),
        (np.ones((3, 2)), {}, r"= \(2, 3\); got shape \(3, 2\)"),
        ([[2, 1, 0]] * 2, {}, "expected True or 1 where a key is valid"),
        ([[-1e9, 0, 0]] * 2, {}, "expected True or 1 where a key is valid"),
        ([["a", "b", "c"]] * 2, {}, "expected True or 1 where a key is valid"),
    ],
)
def test_other_masks_are_refused(mask, more, message):
    with pytest.raises(InvalidArgumentError, match=rf"^key_padding_mask: .*{message}"):
        build(mask, **more)


def test_a_mask_of_padding_given_as_attn_mask_is_answered_with_the_argument():
    query = np.zeros((2, 3, 4), np.float32)
    key = np.zeros((2, 5, 4), np.float32)
    with pytest.raises(InvalidArgumentError, match=r"two are \(q_seq_len, kv_seq_len\).*give a "):
        prepare_call(query, model="m", key=key, attn_mask=np.ones((2, 5), bool))
