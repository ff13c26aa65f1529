"""Messages of an AttendStream, whose requests must be those that protobuf reads.

The bytes are cut into messages, which are read one after the other by what knows the templates of
those before.
"""

from __future__ import annotations

from decoding import Decoder
from tests.fuzz import readings

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import UnsupportedWireFormat, canonical_varint, read_varint, varint
from polyhead_server.codec.message_format import (
    STREAM_ID,
    STREAMED,
    TIMEOUT_US,
    parse_and_reserialize,
    read_frame,
)
from polyhead_server.codec.request import StreamedRequests
from polyhead_server.errors import InvalidRequestError
from polyhead_server.services.attention.stream_messages import read_stream_message

__all__ = ["check", "seeds"]

_CUT = b"\xfe\xfe\xfe"


def check(data):
    decoder = Decoder()
    for message in data.split(_CUT):
        _check_message(decoder, message)


def seeds():
    plain = readings.plain_request()
    same = [pb.StreamedRequest(id=n, call=plain, timeout_us=5000) for n in range(1, 6)]
    mixed = [
        pb.StreamedRequest(id=300, call=readings.full_request()),
        pb.StreamedRequest(id=1 << 40, call=readings.plain_request(request_id="a")),
        pb.StreamedRequest(id=7),
    ]
    messages = [
        pb.AttendStreamRequest(requests=same),
        pb.AttendStreamRequest(requests=[*same[:2], *mixed, *same[2:]], cancelled_ids=[3, 900]),
    ]
    written = [message.SerializeToString() for message in messages]
    return [*written, written[0] + _CUT + written[1] + _CUT + written[0]]


def _check_message(decoder, data):
    message = readings.parsed(pb.AttendStreamRequest, data)
    try:
        read = read_stream_message(data)
    except InvalidRequestError as refusal:
        if message is not None and refusal.reason not in readings.LIMITS:
            raise
        return
    if message is None:
        # requests are read one by one, so a bad one does not spoil the others
        for start, end in read.frames:
            _read_each(decoder, read.data, start, end)
        return
    assert read.cancelled_ids == [varint(number) for number in message.cancelled_ids]
    assert len(read.frames) == len(message.requests)
    index = 0
    while index < len(read.frames):
        index += _check_group(decoder, read, index, message.requests[index:])


def _check_group(decoder, read, index, expected):
    """Compare a request and those grouped with it; return their number."""
    start, end = read.frames[index]
    try:
        match = decoder.match_streamed(read.data, start, end)
    except InvalidRequestError as error:
        frame = _frame(read.data, start, end)
        assert frame.id == varint(expected[0].id)
        readings.assert_equal(error, readings.outcome(readings.read_by_protobuf, expected[0].call))
        return 1
    if match.data is read.data:  # otherwise it was written again, by itself
        match = match.extended(len(expected))
        assert match.count
    ids, timeouts = match.column(STREAM_ID), match.column(TIMEOUT_US)
    requests = StreamedRequests(match, match.value, ids)
    joined = readings.outcome(requests.arrays)
    for place in range(match.count):
        wanted = expected[place]
        one = requests.part(place, 1)
        assert canonical_varint(ids[place]) == varint(wanted.id)
        assert (read_varint(timeouts[place])[0] if timeouts[place] else 0) == wanted.timeout_us
        one.request_id = STREAMED.read_request_id(one.match.payload(STREAMED.request_id))
        got = readings.outcome(readings.reading_of, one)
        readings.assert_equal(got, readings.outcome(readings.read_by_protobuf, wanted.call))
        if isinstance(got, InvalidRequestError):
            assert isinstance(joined, InvalidRequestError)
    return match.count


def _read_each(decoder, data, start, end):
    try:
        decoder.match_streamed(data, start, end)
        _frame(data, start, end)
    except InvalidRequestError:
        return


def _frame(data, start, end):
    try:
        return read_frame(data, start, end)
    except UnsupportedWireFormat:
        data = parse_and_reserialize(pb.AttendStreamRequest, data[start:end])
        return read_frame(data, 0, len(data))
