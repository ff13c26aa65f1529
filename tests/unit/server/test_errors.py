"""The errors of requests quote what callers sent, and stay short enough to be sent."""

from __future__ import annotations

import pytest

from polyhead_server.errors import (
    InvalidRequestError,
    ModelFileError,
    RequestError,
    listed,
    prefix_field_path,
    quoted,
)

LONG = ["x" * 100_000, "\N{WATER WAVE}" * 100_000, "\udcff" * 100_000, "%\n" * 100_000]


def test_a_short_message_is_kept():
    error = InvalidRequestError("query.shape", "expected \N{WATER WAVE}", "REASON", got=[1, 2])
    assert error.message == str(error) == "query.shape: expected \N{WATER WAVE}"
    assert error.figures == {"got": "[1, 2]"}


@pytest.mark.parametrize("text", LONG, ids=["ascii", "four bytes", "no text", "escaped"])
def test_long_texts_are_cut(text):
    error = RequestError(text, "REASON", got=text)
    assert error.message.endswith("…")
    assert len(error.message.encode()) < 1000
    assert len(error.figures["got"].encode()) < 300
    assert str(error) == error.message


@pytest.mark.parametrize("text", LONG, ids=["ascii", "four bytes", "no text", "escaped"])
def test_a_long_field_leaves_room_for_the_problem(text):
    with pytest.raises(InvalidRequestError) as caught, prefix_field_path("call"):
        raise InvalidRequestError(f"{text}.contents", "is wrong", "REASON")
    assert caught.value.message.endswith("…: is wrong")
    assert caught.value.field.startswith("call.")
    assert len(caught.value.field.encode()) < 300


@pytest.mark.parametrize("text", LONG, ids=["ascii", "four bytes", "no text", "escaped"])
def test_what_others_say_is_quoted_in_a_few_characters(text):
    assert len(quoted(text)) < 1000
    assert len(listed([text] * 100)) < 10_000
    assert listed([text] * 12).endswith(" and 2 more")
    assert len(str(ModelFileError(text)).encode()) < 1000
    assert quoted("query") == "'query'"
