"""A stream's connection, of which the test holds the client's end."""

from __future__ import annotations

import asyncio

import numpy as np

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.rpc.observer import CallObserver


class FakeConnection:
    """Messages in, messages out. ``can_write`` lets the test hold up the server's writes."""

    def __init__(self):
        self.incoming = asyncio.Queue()
        self.num_read = 0
        self.sent = []
        """Messages that the server has written."""
        self.has_written = asyncio.Event()
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.observer = CallObserver()

    async def read(self):
        message = await self.incoming.get()
        self.num_read += 1
        return message

    async def write(self, response):
        self.sent.append(response)
        self.has_written.set()
        await self.can_write.wait()

    def send_bytes(self, data):
        self.incoming.put_nowait(data)

    def end(self):
        """Half-close the stream: there are no more requests."""
        self.incoming.put_nowait(None)


class AttendConnection(FakeConnection):
    """A connection whose messages are those of an AttendStream."""

    def send(self, requests=(), cancelled=()):
        """Send one message. ``requests`` are given by their ids."""
        streamed = [pb.StreamedRequest(id=n, call=call) for n, call in dict(requests).items()]
        message = pb.AttendStreamRequest(requests=streamed, cancelled_ids=cancelled)
        self.send_bytes(message.SerializeToString())

    @property
    def written(self):
        """The messages that the server has written."""
        return [pb.AttendStreamResponse.FromString(message) for message in self.sent]

    @property
    def replies(self):
        """The replies of all messages, in order."""
        return [reply for message in self.written for reply in message.replies]

    @property
    def ids(self):
        """The ids of the replies, message by message. No reply is an error."""
        assert all(reply.HasField("response") for reply in self.replies)
        return [[reply.id for reply in message.replies] for message in self.written]

    @property
    def answered(self):
        """The ids of the replies, in order."""
        return [number for ids in self.ids for number in ids]


def numbered_call(number, length=2):
    """Make a request of a model of width 8, which is recognised by its number."""
    query = np.full((1, length, 8), number, np.float32)
    return pb.AttendRequest(model="plain", query=to_tensor(query))


def numbered_calls(*numbers):
    """Make requests whose ids are their numbers."""
    return {number: numbered_call(number) for number in numbers}
