"""One HTTP/2 connection with gRPC calls, written frame by frame.

A gRPC client in Python cannot make calls five times as fast as the server answers them. This client
writes constant headers, and looks up headers that it has received before, so that a call costs it
about twenty microseconds.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import hpack

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Call", "Connection"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HEADER_TABLE_SIZE, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 3, 4, 5
LARGEST_WINDOW = 2**31 - 1
CANCEL = struct.pack(">I", 8)


@dataclass(slots=True, eq=False)
class Call:
    """A call, which may wait for its begin. Times are monotonic."""

    wanted_s: float
    sent_s: float = 0.0
    stream: int = 0
    window: int = 0
    """Bytes of its request that the server still takes."""
    is_second: bool = False
    """Whether the server has refused its stream once."""
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))


class Connection:
    """Makes calls of one method with one request, and yields them when they end."""

    def __init__(self, address: str, path: str, request: bytes) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)
        self._path = path
        self._address = address
        self._body = b"\0" + struct.pack(">I", len(request)) + request
        self.max_streams = 100
        self.open: dict[int, Call] = {}
        """Calls that were started and have not ended, oldest first, by their stream."""
        self._next_stream = 1
        self._window = self._initial_window = 65535
        self._max_frame = 16384
        self._unsent: deque[Call] = deque()
        self._in, self._out = bytearray(), bytearray(PREFACE)
        # No table of headers: equal headers are then equal bytes, which can be looked up.
        settings = {HEADER_TABLE_SIZE: 0, INITIAL_WINDOW: LARGEST_WINDOW}
        entries = b"".join(struct.pack(">HI", *item) for item in settings.items())
        self._write(SETTINGS, 0, 0, entries)
        self._write(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST_WINDOW - 65535))

    def start(self, call: Call, timeout_s: float) -> None:
        """Write the request of a call with this many seconds until its deadline."""
        call.stream, self._next_stream = self._next_stream, self._next_stream + 2
        call.window = self._initial_window
        call.unsent = memoryview(self._body)
        self.open[call.stream] = call
        headers = _headers(self._path, self._address, max(1, int(timeout_s * 1e3)))
        self._write(HEADERS, END_HEADERS, call.stream, headers)
        self._unsent.append(call)

    def cancel(self, call: Call) -> None:
        """Reset a call whose deadline has passed."""
        del self.open[call.stream]
        call.unsent = call.unsent[:0]
        self._write(RST_STREAM, 0, call.stream, CANCEL)

    def pump(self) -> Iterator[tuple[Call, str]]:
        """Write and read without waiting. Yields each ended call and its status code."""
        self._write_bodies()
        self._flush()
        try:
            while received := self.socket.recv(1 << 18):
                self._in += received
                if len(received) < 1 << 17:
                    break
        except BlockingIOError:
            pass
        yield from self._read_frames()
        self._write_bodies()
        self._flush()

    @property
    def has_unwritten(self) -> bool:
        """Whether bytes wait to be written to the socket."""
        return bool(self._out)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _write(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        length = len(payload)
        self._out += struct.pack(">BHBBI", length >> 16, length & 0xFFFF, kind, flags, stream)
        self._out += payload

    def _write_bodies(self) -> None:
        """Write the requests as far as the server's flow control permits."""
        waiting: deque[Call] = deque()
        while self._unsent and self._window > 0:
            call = self._unsent.popleft()
            while call.unsent and (size := min(self._window, call.window, self._max_frame)) > 0:
                chunk, call.unsent = call.unsent[:size], call.unsent[size:]
                flags = 0 if call.unsent else END_STREAM
                self._write(DATA, flags, call.stream, chunk)
                self._window -= len(chunk)
                call.window -= len(chunk)
            if call.unsent:
                waiting.append(call)
        waiting.extend(self._unsent)
        self._unsent = waiting

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            pass

    def _read_frames(self) -> Iterator[tuple[Call, str]]:
        start, available = 0, len(self._in)
        while available - start >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">BHBBI", self._in, start)
            end = start + 9 + (high << 16 | low)
            if end > available:
                break
            if kind == HEADERS:
                if flags & END_STREAM and (call := self.open.pop(stream, None)) is not None:
                    call.unsent = call.unsent[:0]
                    yield call, _status(bytes(self._in[start + 9 : end]))
            elif kind != DATA:
                payload = bytes(self._in[start + 9 : end])
                if (call := self._handle(kind, flags, stream, payload)) is not None:
                    yield call, f"reset, {int.from_bytes(payload)}"
            start = end
        del self._in[:start]

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> Call | None:
        """Handle a frame that is neither headers nor data. Returns the call that it ends."""
        if kind == RST_STREAM:
            if (call := self.open.pop(stream, None)) is not None:
                call.unsent = call.unsent[:0]
            return call
        if kind == WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload))
        elif kind == GOAWAY:
            raise RuntimeError(f"the server ends the connection: {payload[8:]!r}")
        elif kind == SETTINGS and not flags & ACK:
            self._follow_settings(payload)
        elif kind == PING and not flags & ACK:
            self._write(PING, ACK, 0, payload)
        return None

    def _widen(self, stream: int, more: int) -> None:
        """Record that the server accepts more bytes, for a stream or for the connection."""
        if not stream:
            self._window += more
        elif (call := self.open.get(stream)) is not None:
            call.window += more

    def _follow_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == MAX_STREAMS:
                self.max_streams = value
            elif name == MAX_FRAME:
                self._max_frame = value
            elif name == INITIAL_WINDOW:
                for call in self.open.values():
                    call.window += value - self._initial_window
                self._initial_window = value
        self._write(SETTINGS, ACK, 0, b"")


@lru_cache(maxsize=10_000)
def _headers(path: str, address: str, timeout_ms: int) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return bytes(
        encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", address),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("grpc-timeout", f"{timeout_ms}m"),
            ]
        )
    )


@lru_cache(maxsize=10_000)
def _status(block: bytes) -> str:
    decoder = hpack.Decoder()
    decoder.header_table_size = 0
    headers = dict(decoder.decode(block))
    return str(headers.get("grpc-status", headers.get(":status")))
