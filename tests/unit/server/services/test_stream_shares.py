"""How many bytes each stream may hold, and how many streams there may be."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from polyhead_server.errors import OverloadedError
from polyhead_server.services.stream_shares import StreamShares
from polyhead_server.settings import ServerSettings

MIB = 1 << 20


def test_streams_share_equally_and_a_peer_has_half_of_its_share():
    shares = StreamShares(ServerSettings(max_queue_bytes=800 * MIB, max_peer_share=0.5))
    with shares.open("a") as first:
        assert first() == 200 * MIB
        with shares.open("a") as second, shares.open("b") as third:
            assert (first(), second(), third()) == (100 * MIB, 100 * MIB, 200 * MIB)
        assert first() == 200 * MIB


def test_no_more_streams_are_open_than_have_a_share_worth_having():
    shares = StreamShares(ServerSettings(max_queue_bytes=100 * MIB, max_peer_share=0.5))
    with ExitStack() as streams:
        for peer in ("a", "b"):
            for _ in range(50):
                streams.enter_context(shares.open(peer))
            with pytest.raises(OverloadedError, match="--max-peer-share"):
                streams.enter_context(shares.open(peer))
        with pytest.raises(OverloadedError, match="100 streams are open"):
            streams.enter_context(shares.open("c"))
    with shares.open("c"):
        pass
