"""A server that is down, busy or slow: the page says so, and its work ends when it goes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import ExitStack, closing

import pytest
from explorer_page import ExplorerError, explorer

import polyhead
from polyhead_explorer.web.errors import describe_error
from polyhead_server.running import running_server

TEXT = "Tom is going to fish at the river bank."
TIMEOUT_S = 60


class FakeClient:
    """A client whose call waits, or fails."""

    def __init__(self, error: polyhead.PolyheadError | None = None) -> None:
        self.error = error
        self.entered, self.cancelled = threading.Event(), threading.Event()

    async def models(self):
        self.entered.set()
        if self.error is not None:
            raise self.error
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass


def test_closing_a_request_cancels_the_call_that_it_waits_for():
    client = FakeClient()
    with explorer(lambda: client) as page:
        with closing(socket.create_connection(("127.0.0.1", page.port))) as browser:
            browser.sendall(b"GET /api/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.entered.wait(TIMEOUT_S)
            assert not client.cancelled.is_set()
        assert client.cancelled.wait(TIMEOUT_S)


def test_a_request_that_is_never_sent_to_its_end_is_no_failure(capsys):
    with explorer(FakeClient) as page:
        with closing(socket.create_connection(("127.0.0.1", page.port))) as browser:
            browser.sendall(
                b"POST /api/reading HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
        assert page.request("GET", "/")[0] == 200
    assert capsys.readouterr().err == ""


def test_half_of_a_character_is_refused_in_words(page):
    with pytest.raises(ExplorerError, match="text: expected a text; it has half") as raised:
        page.ask("reading", model="bert", text="\ud83d bank")
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (polyhead.ResourceExhaustedError("queue is full", retry_after_s=0.5), 503, "busy"),
        (polyhead.ResourceExhaustedError("too many bytes"), 413, "too-large"),
        (polyhead.DeadlineExceededError("late"), 504, "slow"),
        (polyhead.AuthenticationError("who are you?"), 502, "credentials"),
        (polyhead.ServerError("internal error"), 502, "server"),
    ],
)
def test_what_the_server_says_is_told_with_what_to_do(error, status, kind):
    with explorer(lambda: FakeClient(error)) as page:
        with pytest.raises(ExplorerError, match=str(error).replace("?", ".")) as refused:
            page.ask("models")
        assert (refused.value.status, refused.value.kind) == (status, kind)
        _, _, body = page.request("GET", "/api/models")
        assert json.loads(body)["error"]["retry_after_s"] == error.retry_after_s


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (polyhead.DeadlineExceededError("late: give a longer timeout"), "late: give a longer --t"),
        (polyhead.InvalidArgumentError("texts[0]: has 9 tokens"), "the text has 9 tokens"),
    ],
)
def test_messages_name_the_flags_of_the_command_and_the_text(error, message):
    _, body = describe_error(error)
    assert body["error"]["message"].startswith(message)


def test_errors_that_nobody_expects_are_logged_and_not_shown(caplog):
    client = FakeClient(RuntimeError("a secret"))
    refusal = pytest.raises(ExplorerError, match="the explorer failed")
    with explorer(lambda: client) as page, refusal as refused:
        page.ask("models")
    assert refused.value.status == 500
    assert "a secret" in caplog.text


def test_a_server_that_went_is_used_again_when_it_is_back(repository):
    with ExitStack() as pages, ExitStack() as servers:
        first = servers.enter_context(running_server(repository, threads=1))
        page = pages.enter_context(explorer(first.target))
        page.ask("reading", model="bert", text=TEXT)
        servers.close()
        with pytest.raises(ExplorerError) as refused:
            page.ask("head", model="bert", text=TEXT, layer=0, head=0)
        assert (refused.value.status, refused.value.kind) == (502, "down")
        with running_server(threads=1, port=first.port):
            page.ask("reading", model="river-bank", text=TEXT)
            with pytest.raises(ExplorerError, match="no model 'bert'"):
                page.ask("head", model="bert", text=TEXT, layer=0, head=0)
