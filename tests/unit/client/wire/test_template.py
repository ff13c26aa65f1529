"""A message that is recognised by its template is what protobuf reads; all others are not matched.

The template of these messages is one request of a stream, as the server takes it apart.
"""

from __future__ import annotations

import random
import sys
import threading

import hypothesis
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from odd_messages import Scribe, is_payload, payloads_of
from odd_messages import varint as padded_varint

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire import template as template_module
from polyhead.wire.protobuf import (
    ABSENT,
    VARINT,
    UnsupportedWireFormat,
    extract_payloads,
    read_varint,
    reserialize,
    tag,
    varint,
)
from polyhead.wire.template import TemplateCache, interleave

DATA = tag(pb.Tensor.DATA_FIELD_NUMBER)
CALL = {tag(number): {DATA: index} for index, number in enumerate((4, 5, 6))} | {tag(3): 3}
ID, TIMEOUT_US = 4, 5
PAYLOADS = {
    tag(pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER): {
        tag(pb.StreamedRequest.CALL_FIELD_NUMBER): CALL,
        tag(pb.StreamedRequest.ID_FIELD_NUMBER, VARINT): ID,
        tag(pb.StreamedRequest.TIMEOUT_US_FIELD_NUMBER, VARINT): TIMEOUT_US,
    }
}
NUM_PAYLOADS, VARINTS = 6, (ID, TIMEOUT_US)

seeds = st.integers(0, 2**32 - 1)
ids = st.integers(0, 2**64 - 1) | st.integers(0, 300)
tensors = st.builds(
    pb.Tensor,
    dtype=st.integers(0, 3),
    shape=st.lists(st.integers(0, 300), max_size=2),
    data=st.binary(max_size=9),
)
calls = st.builds(
    pb.AttendRequest,
    model=st.text(max_size=3),
    request_id=st.text(max_size=3),
    query=st.none() | tensors,
    key=st.none() | tensors,
    value=st.none() | tensors,
    kv_lengths=st.lists(st.integers(0, 300), max_size=2),
)


def message_of(number, timeout_us, call):
    request = pb.StreamedRequest(id=number, timeout_us=timeout_us, call=call)
    return pb.AttendStreamRequest(requests=[request])


messages = st.builds(message_of, ids, st.integers(-(2**63), 2**63 - 1) | st.just(0), calls)


def small_call(byte=0, size=4, model="m"):
    query = pb.Tensor(dtype=1, shape=[1, 1, size], data=bytes([byte] * size))
    return pb.AttendRequest(model=model, query=query)


def frame(number, byte=0, timeout_us=900, **call):
    return message_of(number, timeout_us, small_call(byte, **call)).SerializeToString()


def add(cache, data, start=0, end=None):
    """Parse a message that is not known, as client and server do, and remember its template."""
    end = len(data) if end is None else end
    try:
        skeleton, spans = extract_payloads(data, start, end, PAYLOADS, NUM_PAYLOADS)
    except UnsupportedWireFormat:
        data, start = reserialize(pb.AttendStreamRequest, data[start:end]), 0
        end = len(data)
        skeleton, spans = extract_payloads(data, start, end, PAYLOADS, NUM_PAYLOADS)
    value = pb.AttendStreamRequest.FromString(skeleton)
    value.DiscardUnknownFields()
    return cache.add(data, start, end, spans, value=value, varints=VARINTS)


def recognise(cache, data, start=0, end=None):
    return cache.match(data, start, end) or add(cache, data, start, end)


def assert_read_as_by_protobuf(match, data):
    """Compare a match of one message with what protobuf reads in its bytes."""
    rest, values = payloads_of(pb.AttendStreamRequest.FromString(data), PAYLOADS)
    assert match.value == rest
    assert match.count == 1
    for index in range(NUM_PAYLOADS):
        payload = match.payload(index)
        assert is_payload(payload, values.get(index))
        assert match.data[slice(*match.span(index))] == payload
        assert match.column(index) == [payload]


def with_other_payloads(data, spans, rng):
    """Give a message other payloads of the same sizes: bytes, ASCII text and varints."""
    changed = bytearray(data)
    for index, (start, end) in enumerate(spans):
        size = end - start
        if index in VARINTS:
            if size:
                low, high = 128 ** (size - 1), min(128**size, 2**64) - 1
                changed[start:end] = varint(rng.randint(max(1, low), high))
        else:
            changed[start:end] = bytes(rng.randrange(128) for _ in range(size))
    return bytes(changed)


# ---------------------------------------------------------------- single messages


@given(messages, seeds, st.binary(max_size=3))
def test_messages_of_one_template_are_read_as_protobuf_reads_each(message, seed, before):
    """The first one may be written in any way; the later ones have other payloads."""
    rng, cache = random.Random(seed), TemplateCache()
    data = Scribe(rng).write(message)
    match = recognise(cache, before + data + b"?", len(before), len(before) + len(data))
    assert_read_as_by_protobuf(match, data)
    data = match.data[match.start : match.start + match.size]  # reserialized, if it had to be
    spans = [
        (start - match.start, end - match.start) if end else ABSENT
        for start, end in map(match.span, range(NUM_PAYLOADS))
    ]
    for _ in range(3):
        later = with_other_payloads(data, spans, rng)
        found = cache.match(before + later, len(before))
        assert found is not None
        assert found.value is match.value
        assert_read_as_by_protobuf(found, later)


@given(st.lists(st.tuples(messages, seeds), min_size=1, max_size=8))
def test_a_cache_of_many_templates_agrees_with_protobuf(some):
    cache = TemplateCache()
    for message, seed in some * 2:
        data = Scribe(random.Random(seed)).write(message)
        assert_read_as_by_protobuf(recognise(cache, data), data)


@given(st.binary(min_size=1, max_size=9), st.text(max_size=3), st.integers(1, 255))
def test_a_message_that_differs_anywhere_outside_its_payloads_is_not_matched(elements, name, flip):
    query = pb.Tensor(dtype=1, shape=[len(elements)], data=elements)
    call = pb.AttendRequest(model="model", request_id=name, query=query, kv_lengths=[3, 300])
    data = message_of(5, 300, call).SerializeToString()
    cache = TemplateCache()
    match = add(cache, data)
    payloads = [match.span(index) for index in range(NUM_PAYLOADS)]
    for at, byte in enumerate(data):
        changed = data[:at] + bytes([byte ^ flip]) + data[at + 1 :]
        is_payload = any(start <= at < end for start, end in payloads)
        assert is_payload or cache.match(changed) is None
    for size in range(len(data)):
        assert cache.match(data[:size]) is None
        assert cache.match(data, 0, size) is None
    assert cache.match(data + b"\0") is None


@hypothesis.settings(max_examples=300)
@given(
    messages,
    st.lists(
        st.tuples(
            st.sampled_from(["flip", "insert", "delete", "swap"]), seeds, st.integers(1, 255)
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_a_mutated_message_is_not_matched_or_is_read_as_protobuf_does(message, mutations):
    cache = TemplateCache()
    data = message.SerializeToString()
    add(cache, data)
    mutated = bytearray(data)
    for kind, where, byte in mutations:
        at = where % (len(mutated) or 1)
        match kind:
            case "flip" if mutated:
                mutated[at] ^= byte
            case "insert":
                mutated.insert(at, byte)
                if byte % 2 and len(mutated) > 1:  # of the same size
                    del mutated[byte % len(mutated)]
            case "delete":
                del mutated[at : at + 1]
            case "swap" if mutated:
                mutated[0], mutated[at] = mutated[at], mutated[0]
    mutated = bytes(mutated)
    match = cache.match(mutated)
    if match is None:
        return
    try:
        pb.AttendStreamRequest.FromString(mutated)
    except DecodeError:  # an id that is no text: reading the payload finds that
        with pytest.raises(UnicodeDecodeError):
            match.payload(3).decode()
    else:
        assert_read_as_by_protobuf(match, mutated)


@given(ids, ids, st.integers(0, 3), st.integers(0, 3))
def test_varints_of_any_value_and_encoding_never_confuse_a_match(
    first, second, padding, other_padding
):
    """The bytes behind a varint are found where they are, however many bytes the varint has."""

    def written(number, padding):
        fields = b"\x08" + padded_varint(number, padding) + b"\x10\x01\x1a\x03\x0a\x01m"
        return b"\x0a" + varint(len(fields)) + fields

    cache = TemplateCache()
    for number, pad in ((first, padding), (second, other_padding), (first, padding)):
        data = written(number, min(pad, 10 - len(varint(number))))
        assert_read_as_by_protobuf(recognise(cache, data), data)
    assert len(cache) <= 2


@pytest.mark.parametrize(
    "number", [b"\x85\x00", b"\x05\x05", b"\x85\x85"], ids=["padded", "too short", "too long"]
)
def test_bytes_that_are_not_one_varint_as_protobuf_writes_it_are_not_matched(number):
    cache = TemplateCache()
    data = frame(300)
    match = add(cache, data)
    start, end = match.span(ID)
    assert cache.match(data[:start] + varint(299) + data[end:]).payload(ID) == varint(299)
    assert cache.match(data[:start] + number + data[end:]) is None


def test_a_number_of_ten_bytes_is_matched_if_it_has_no_more_than_64_bits():
    cache = TemplateCache()
    data = frame(2**64 - 1)
    add(cache, data)
    for number in (2**63, 2**63 + 5, 2**64 - 1):
        assert cache.match(frame(number)).payload(ID) == varint(number)
    assert add(cache, data * 3, 0, len(data)).extended(3).count == 3
    for last in (0, 2, 0x7F):
        overflow = data.replace(varint(2**64 - 1), b"\xff" * 9 + bytes((last,)))
        assert cache.match(overflow) is None
        assert add(cache, data + overflow, 0, len(data)).extended(2).count == 1
        assert_read_as_by_protobuf(recognise(cache, overflow), overflow)


def test_fields_that_are_not_known_are_constant():
    cache = TemplateCache()
    fields = frame(5)[2:] + b"\xfa\x01\x02"
    first, other = (
        b"\x0a" + varint(len(fields) + 2) + fields + unknown for unknown in (b"aa", b"ab")
    )
    assert_read_as_by_protobuf(recognise(cache, first), first)
    assert cache.match(other) is None
    assert_read_as_by_protobuf(recognise(cache, other), other)
    assert cache.match(first) is not None
    assert len(cache) == 2


# ---------------------------------------------------------------- groups

# Of groups: calls that differ from the usual one in one thing.
KINDS = [
    {"model": "n"},
    {"size": 5},
    {"timeout_us": 901},
    {"timeout_us": 70_000},
    {"model": "mm", "size": 3},
]


@given(
    st.lists(
        st.tuples(st.sampled_from([*[{}] * 9, *KINDS]), ids),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 70),
    st.integers(0, 14),
    st.binary(max_size=3),
)
def test_a_group_equals_its_messages_read_one_by_one(kinds, cut, max_count, before):
    """It ends before the first other message, before a truncated one, and at ``max_count``."""
    frames = [frame(number, n, **kind) for n, (kind, number) in enumerate(kinds)]
    joined = b"".join(frames)
    data = before + joined[: max(len(frames[0]), len(joined) - cut)]
    cache = TemplateCache()
    first = recognise(cache, data, len(before), len(before) + len(frames[0]))
    if first.data is not data:
        assert first.extended(max_count).count == 1
        return
    group = first.extended(max_count)
    assert 1 <= group.count <= max(1, max_count)
    for index in range(group.count):
        assert_read_as_by_protobuf(group.part(index, 1), frames[index])
    assert_consistent(group)
    at = len(before) + group.count * group.size
    if group.count < max_count and at + group.size <= len(data):
        found = cache.match(data, at, at + group.size)
        assert found is None or found.template is not first.template


def assert_consistent(group):
    detached = group.detached()
    assert len(detached.data) == group.count * group.size
    assert (detached.start, detached.value) == (0, group.value)
    for index in range(NUM_PAYLOADS):
        column = [group.part(n, 1).payload(index) for n in range(group.count)]
        assert group.column(index) == detached.column(index) == column
        assert group.payload(index) == column[0]
    if group.count > 1:
        rest = group.part(1, group.count - 1)
        assert rest.column(ID) == group.column(ID)[1:]
        assert rest.part(0, 1).payload(0) == group.column(0)[1]


def test_a_group_ends_before_the_first_message_of_another_template():
    likes = [frame(number, number) for number in range(1, 9)]
    others = {
        "constants": frame(7, model="n"),
        "size": frame(7, size=5),
        "id of two bytes": frame(300, size=3),
        "padded id": likes[5].replace(b"\x08\x06\x10", b"\x08\x00\x10"),
    }
    for other in others.values():
        data = b"".join([*likes[:3], other, *likes[3:]])
        group = add(TemplateCache(), data, 0, len(likes[0])).extended(64)
        assert group.column(ID) == [varint(number) for number in (1, 2, 3)]
        assert group.column(0) == [bytes([number] * 4) for number in (1, 2, 3)]
        assert_consistent(group)


def test_a_group_ends_before_truncated_bytes_and_at_its_maximum():
    frames = [frame(number) for number in range(1, 11)]
    data = b"".join(frames)
    first = add(TemplateCache(), data, 0, len(frames[0]))
    assert first.extended(64).count == 10
    assert first.extended(4).count == 4
    for max_count in (0, 1):
        assert first.extended(max_count) is first
    for cut in range(1, len(frames[0])):
        first = add(TemplateCache(), data[:-cut], 0, len(frames[0]))
        assert first.extended(64).count == 9


@pytest.mark.parametrize("number", [b"\x00", b"\x85\x00", b"\x80" * 9 + b"\x00"])
def test_a_message_that_is_reserialized_is_a_group_of_one(number):
    usual = frame(read_varint(number)[0])
    fields = b"\x08" + number + usual[usual.index(b"\x10") :]
    odd = b"\x0a" + varint(len(fields)) + fields
    match = add(TemplateCache(), odd * 3, 0, len(odd))
    assert match.data == usual
    assert match.extended(3).count == 1
    assert_read_as_by_protobuf(match, odd)


def test_absent_payloads_are_empty():
    data = frame(0, timeout_us=0) * 2
    group = add(TemplateCache(), data, 0, len(data) // 2).extended(2)
    assert group.column(ID) == group.column(TIMEOUT_US) == [b"", b""]
    assert group.span(ID) == ABSENT
    assert group.payload(ID) == b""


# ---------------------------------------------------------------- the cache


def constant_message(size, constant):
    """A message that is a constant, and its spans: a payload of 4 bytes at its beginning."""
    return b"pppp" + constant.to_bytes(size - 4, "big"), [(0, 4)]


def add_constant(cache, size, constant):
    data, spans = constant_message(size, constant)
    return cache.add(data, 0, size, spans, value=(size, constant))


def knows(cache, size, constant):
    match = cache.match(constant_message(size, constant)[0])
    assert match is None or match.value == (size, constant)
    return match is not None


def cost_of_template():
    cache = TemplateCache()
    return add_constant(cache, 20, 0).template.nbytes


def test_all_templates_of_one_layout_stay_known():
    """Thirty-two models with names of one length, for instance."""
    cache = TemplateCache()
    frames = [frame(5, model=f"model-{number:02}") for number in range(32)]
    for data in frames:
        assert cache.match(data) is None
        add(cache, data)
    for data in frames * 2:
        assert_read_as_by_protobuf(cache.match(data), data)
    assert len(cache) == 32


def test_templates_that_were_used_least_recently_are_dropped_first():
    cache = TemplateCache(10 * cost_of_template())
    for constant in range(10):
        add_constant(cache, 20, constant)
    assert len(cache) == 10
    assert knows(cache, 20, 0)  # and uses it
    for constant in range(10, 13):
        add_constant(cache, 20, constant)
    assert len(cache) == 10
    assert [n for n in range(13) if knows(cache, 20, n)] == [0, *range(4, 13)]


@given(st.lists(st.tuples(st.integers(8, 12), st.integers(0, 9), st.booleans()), max_size=60))
def test_the_memory_of_a_cache_is_bounded_and_in_order_of_use(uses):
    nbytes = cost_of_template()
    cache, in_order = TemplateCache(5 * nbytes), []
    for size, constant, only_match in uses:
        key = size, constant
        was_known = knows(cache, *key)
        assert was_known == (key in in_order)
        if was_known:
            in_order.remove(key)
        if not only_match:
            add_constant(cache, *key)  # also anew
        if was_known or not only_match:
            in_order.append(key)
        in_order = in_order[-5:]
        assert len(cache) == len(in_order)
    for key in in_order:
        assert knows(cache, *key)


def test_layouts_of_one_size_are_bounded():
    """So that a message is not compared with ever more of them."""
    cache = TemplateCache()
    data = b"abcdefghijklmnopqrstuvwxyz"
    spans = [[(at, at + 2)] for at in range(20)]
    for at in range(20):
        cache.add(data, 0, len(data), spans[at], value=at)
        cache.add(b"!" + data, 0, len(data) + 1, [(1, 2)], value="other size")
    assert len(cache) == template_module._MAX_LAYOUTS + 1
    known = [at for at in range(20) if cache.match(data[:at] + b"??" + data[at + 2 :]) is not None]
    assert known == list(range(20 - template_module._MAX_LAYOUTS, 20))
    assert cache.match(b"!?" + data[1:]).value == "other size"


def test_large_constants_are_not_kept_and_are_a_match_all_the_same():
    cache = TemplateCache()
    data = frame(5, model="m" * 5000)
    match = add(cache, data + data, 0, len(data))
    assert_read_as_by_protobuf(match, data)
    assert match.extended(2).count == 2
    assert len(cache) == 0
    assert cache.match(data) is None


def test_a_cache_without_room_keeps_nothing():
    cache = TemplateCache(1)
    assert add_constant(cache, 20, 1).value == (20, 1)
    assert len(cache) == 0
    assert not knows(cache, 20, 1)


def test_a_template_that_is_added_again_has_its_new_value():
    cache = TemplateCache(3 * cost_of_template())
    data, spans = constant_message(20, 1)
    for value in "abc":
        cache.add(data, 0, 20, spans, value=value)
        assert cache.match(data).value == value
        assert len(cache) == 1
    for constant in range(2, 6):
        add_constant(cache, 20, constant)
    assert cache.match(data) is None
    assert len(cache) == 3


def test_a_cache_that_is_cleared_knows_nothing_and_learns_again():
    cache = TemplateCache()
    match = add_constant(cache, 20, 1)
    cache.clear()
    assert len(cache) == 0
    assert not knows(cache, 20, 1)
    assert match.value == (20, 1)  # what was matched stays
    add_constant(cache, 20, 1)
    assert knows(cache, 20, 1)


def test_several_threads_may_add_match_and_clear_at_once():
    cache = TemplateCache(40 * cost_of_template())
    errors = []

    def use(seed):
        rng = random.Random(seed)
        try:
            for _ in range(3000):
                size, constant, at = rng.randint(30, 32), rng.randint(0, 9), rng.randint(0, 11)
                filler = bytes([constant]) * size
                data = filler[:at] + bytes([rng.randint(10, 255), at]) + filler[at + 2 :]
                key = size, constant, at
                match = cache.match(data)
                if match is None:
                    match = cache.add(data, 0, size, [(at, at + 1)], value=key)
                assert match.value == key
                assert match.payload(0) == data[at : at + 1]
                if rng.random() < 0.002:
                    cache.clear()
        except BaseException as error:
            errors.append(error)
            raise

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    assert len(cache) <= 40
    for constant in range(100):  # what it holds is still consistent: all of it can be dropped
        add_constant(cache, 20, constant)
    assert len(cache) == 40
    assert all(knows(cache, 20, constant) for constant in range(60, 100))


# ---------------------------------------------------------------- writing


def test_columns_are_written_side_by_side():
    each = np.arange(6, dtype=np.uint16).reshape(3, 2)
    written = interleave(3, [b"<", [b"a", b"b", b"c"], each.data, b">"])
    expected = [
        b"<" + name + own.tobytes() + b">"
        for name, own in zip((b"a", b"b", b"c"), each, strict=True)
    ]
    assert written == b"".join(expected)
