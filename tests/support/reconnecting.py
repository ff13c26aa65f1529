"""A caller that connects again and again with many connections, and begins calls over each.

Run as a process: ADDRESS CONNECTIONS LIFE_S SECONDS [SOURCE]. It prints how many connections it
had.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time

import hpack
import hyperframe.frame as frames

SOURCE = "127.0.0.2"
CALLS = 100
CONNECT_S = 3


def first_bytes(authority):
    """Return what each connection sends: its preface, and so many health checks."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    encoder = hpack.Encoder()
    parts = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frames.SettingsFrame(0).serialize()]
    for stream in range(1, 2 * CALLS, 2):
        begin = frames.HeadersFrame(stream, encoder.encode(headers), flags=["END_HEADERS"])
        message = frames.DataFrame(stream, bytes(5), flags=["END_STREAM"])
        parts += (begin.serialize(), message.serialize())
    return b"".join(parts)


class Crowd:
    """Keeps so many connections, each for a while."""

    def __init__(self, address, most, life_s, source):
        host, port = address.rsplit(":", 1)
        self.address, self.most, self.life_s = (host, int(port)), most, life_s
        self.source = source
        self.first = first_bytes(address)
        self.selector = selectors.DefaultSelector()
        self.ends = {}
        self.num_connected = 0

    def go_on(self):
        """Open connections in place of those that have ended, and end the oldest."""
        now = time.monotonic()
        for connection in [each for each, end in self.ends.items() if end < now]:
            self.close(connection)
        while len(self.ends) < self.most:
            self.open(now)
        for key, events in self.selector.select(0.02):
            try:
                self.follow(key.fileobj, events, now)
            except OSError:
                self.close(key.fileobj)

    def open(self, now):
        connection = socket.socket()
        connection.setblocking(False)
        connection.bind((self.source, 0))
        connection.connect_ex(self.address)
        self.ends[connection] = now + CONNECT_S
        self.selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def follow(self, connection, events, now):
        if events & selectors.EVENT_WRITE:
            connection.send(self.first)
            self.num_connected += 1
            self.ends[connection] = now + self.life_s
            self.selector.modify(connection, selectors.EVENT_READ)
        elif not connection.recv(1 << 16):
            self.close(connection)

    def close(self, connection):
        self.selector.unregister(connection)
        connection.close()
        del self.ends[connection]


def main(address, most, life_s, seconds, source=SOURCE):
    crowd = Crowd(address, int(most), float(life_s), source)
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        crowd.go_on()
    print(crowd.num_connected)


if __name__ == "__main__":
    main(*sys.argv[1:])
