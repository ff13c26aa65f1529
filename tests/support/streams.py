"""AttendStream without polyhead's client: messages of the stubs, or of any bytes."""

from __future__ import annotations

import queue

from raw_calls import SERVICE

from polyhead.v1 import attention_pb2 as pb


class Stream:
    """A stream that a test writes to and reads from, message by message."""

    def __init__(self, channel, timeout=30):
        self._outgoing = queue.SimpleQueue()
        attend_stream = channel.stream_stream(SERVICE + "AttendStream")
        self.call = attend_stream(iter(self._outgoing.get, None), timeout=timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call.cancel()
        self.half_close()

    def send(self, requests=(), cancelled=(), timeout_us=0):
        """Send one message. ``requests`` are given by their ids in the stream."""
        streamed = [
            pb.StreamedRequest(id=number, timeout_us=timeout_us, call=call)
            for number, call in dict(requests).items()
        ]
        message = pb.AttendStreamRequest(requests=streamed, cancelled_ids=cancelled)
        self.send_bytes(message.SerializeToString())

    def send_bytes(self, data):
        self._outgoing.put(data)

    def half_close(self):
        self._outgoing.put(None)

    def replies(self, count):
        """Read until so many replies have come; return them by id. No id comes twice."""
        found = {}
        while len(found) < count:
            for reply in pb.AttendStreamResponse.FromString(next(self.call)).replies:
                assert reply.id not in found
                found[reply.id] = reply
        assert len(found) == count
        return found

    def rest(self):
        """Half-close, and read the replies until the stream ends with OK; return them by id."""
        self.half_close()
        found = {}
        for message in self.call:
            for reply in pb.AttendStreamResponse.FromString(message).replies:
                assert reply.id not in found
                found[reply.id] = reply
        assert self.call.code().name == "OK"
        return found
