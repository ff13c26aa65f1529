"""A client of several servers asks those that serve."""

from __future__ import annotations

import threading

import polyhead
from polyhead_server.running import running_server


def test_a_server_that_is_about_to_stop_is_left_out():
    """It would still answer for a minute; each server is known by its --max-request-bytes."""
    stopping = running_server(max_request_bytes=2048, drain_delay_s=2)
    with running_server(max_request_bytes=4096) as other:
        first = stopping.__enter__()
        targets = f"{first.target},{other.target}"
        with polyhead.Client(f"ipv4:{targets}") as client:

            def asked(number):
                infos = (client.server_info() for _ in range(number))
                return {info.limits.max_request_bytes for info in infos}

            while len(asked(4)) < 2:
                pass
            ending = threading.Thread(target=stopping.__exit__, args=(None, None, None))
            ending.start()
            try:
                while len(asked(4)) == 2:
                    pass
                assert ending.is_alive()  # so it has not stopped
                assert asked(50) == {4096}
            finally:
                ending.join()
