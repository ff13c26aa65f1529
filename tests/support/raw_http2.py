"""A hostile HTTP/2 client: frames one by one, and only the windows that a test opens."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame as frames

Reset, Data, Headers = (
    h2.events.StreamReset,
    h2.events.DataReceived,
    (h2.events.ResponseReceived, h2.events.TrailersReceived),
)


class Ended(Exception):
    """The server has closed the connection."""


class RawConnection:
    """An HTTP/2 connection of which nothing happens by itself but the server's pings and settings.

    ``window``: bytes of a reply that the server may send on each stream before the test reads.
    ``address``: where it comes from; to the server, all of 127.0.0.0/8 are peers of their own.
    """

    def __init__(self, target, window=65535, address="127.0.0.1", connect_s=30, **headers):
        host, port = target.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), connect_s, (address, 0))
        self.socket.settimeout(30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(header_encoding="utf-8", validate_inbound_headers=False)
        self.http2 = h2.connection.H2Connection(config)
        settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        self.http2.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self.events = []
        self._headers = headers
        self._next_stream = 1
        self.http2.initiate_connection()
        self.flush()
        try:
            self.pump(until=lambda event: isinstance(event, h2.events.RemoteSettingsChanged))
        except Ended:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def flush(self):
        with suppress(OSError):
            self.socket.sendall(self.http2.data_to_send())

    def headers(self, path):
        return [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *self._headers.items(),
        ]

    def open(self, path, message=None, *, end=False, sent=None):
        """Open a stream; send a message, or the first ``sent`` bytes of it. Returns its number.

        It is opened even if the server allows no more.
        """
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        # h2 refuses to open more streams than the peer allows, which is what these tests do
        self.http2.remote_settings.update({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2**31})
        self.http2.remote_settings.acknowledge()
        self.http2.send_headers(stream, self.headers(path), end_stream=end and message is None)
        self.flush()
        if message is not None:
            self.send(stream, framed(message)[:sent], end=end)
        return stream

    def send(self, stream, data, *, end=False):
        """Send bytes of a stream, as fast as the server's windows allow."""
        view = memoryview(data)
        while view:
            size = min(
                len(view),
                self.http2.local_flow_control_window(stream),
                self.http2.max_outbound_frame_size,
            )
            if size:
                self.http2.send_data(stream, bytes(view[:size]))
                view = view[size:]
                self.flush()
            else:
                self.pump(1)
        if end:
            self.http2.end_stream(stream)
            self.flush()

    def wait_until_read(self):
        """Wait until the server has read all that was sent."""
        self.http2.ping(b"are read")
        self.flush()
        self.pump(until=lambda event: isinstance(event, h2.events.PingAckReceived))

    def reset(self, stream):
        self.http2.reset_stream(stream, 8)
        self.flush()

    def allow(self, stream, size):
        """Let the server send so many more bytes of a stream."""
        self.http2.increment_flow_control_window(size, stream)
        self.http2.increment_flow_control_window(size)
        self.flush()

    def pump(self, timeout_s=10.0, until=None):
        """Read until an event; return what was received. Raises TimeoutError, and Ended.

        Without ``until``: read what has come, and wait for the first of it only.
        """
        received, deadline = [], time.monotonic() + timeout_s
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(1 << 16)
            except TimeoutError:
                if until is None:
                    return received
                raise
            except OSError:
                data = b""
            if not data:
                raise Ended
            events = self.http2.receive_data(data)
            self.flush()
            received += events
            self.events += events
            if until is None or any(map(until, events)):
                return received
            if time.monotonic() > deadline:
                raise TimeoutError

    def wait_for_end(self, stream, timeout_s=10.0):
        """Wait until a stream has ended; return the last event of it."""

        def is_end(event):
            kinds = (h2.events.StreamReset, h2.events.StreamEnded)
            return isinstance(event, kinds) and event.stream_id == stream

        found = [event for event in self.events if is_end(event)]
        return (found or list(filter(is_end, self.pump(timeout_s, is_end))))[0]

    def status(self, stream):
        """Return the gRPC status that a stream has ended with; None: there is none yet."""
        for event in self.events:
            if isinstance(event, Headers) and event.stream_id == stream:
                status = dict(event.headers).get("grpc-status")
                if status is not None:
                    return int(status)
        return None


def framed(message, *, compressed=False):
    """Write a gRPC message with its length."""
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


def whole_calls(connection, path, message, count, first):
    """Make the frames of so many calls with a message, from stream ``first`` on."""
    block = connection.http2.encoder.encode(connection.headers(path))
    parts = []
    for stream in range(first, first + 2 * count, 2):
        headers = frames.HeadersFrame(stream, block)
        headers.flags.add("END_HEADERS")
        data = frames.DataFrame(stream, framed(message))
        data.flags.add("END_STREAM")
        parts += (headers.serialize(), data.serialize())
    return b"".join(parts)


def rapid_resets(connection, path, count, first):
    """Make the frames that open and at once reset so many streams, from number ``first`` on."""
    block = connection.http2.encoder.encode(connection.headers(path))
    parts = []
    for stream in range(first, first + 2 * count, 2):
        headers = frames.HeadersFrame(stream, block)
        headers.flags.add("END_HEADERS")
        parts += (headers.serialize(), frames.RstStreamFrame(stream, error_code=8).serialize())
    return b"".join(parts)
