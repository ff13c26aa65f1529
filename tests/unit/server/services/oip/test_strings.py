"""Strings of the Open Inference Protocol: how many one tensor may have."""

from __future__ import annotations

import pytest

from polyhead_server.errors import InvalidRequestError
from polyhead_server.services.oip.typed_contents import pack_bytes, unpack_bytes


def test_more_strings_than_the_limit_are_refused_before_any_is_read():
    """118 MiB of empty strings took 6 GB."""
    with pytest.raises(InvalidRequestError, match="at most 65536 strings; got 65537") as caught:
        unpack_bytes("words", b"", (65_537,))
    assert caught.value.reason == "TOO_MANY"


def test_as_many_strings_as_the_limit_are_read():
    texts = unpack_bytes("words", pack_bytes([b""] * 65_536), (65_536,))
    assert texts.shape == (65_536,)
