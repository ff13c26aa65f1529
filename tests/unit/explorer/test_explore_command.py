"""`polyhead explore`: what is wrong with its arguments, and what it prints."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection

import pytest
from tiny_checkpoint import SPECIAL, tiny_checkpoint

from polyhead.cli import main


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("POLYHEAD_SERVER", raising=False)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--models", "missing"], 2, "own server cannot start: "),
        (["--checkpoint", "missing"], 2, "--checkpoint: "),
        (["--host", "192.0.2.1"], 2, "cannot listen on 192.0.2.1, port 0: "),
        (["--host", "no.host.invalid"], 2, "port 0: Name or service not known. --port 0"),
        (["--server", "a:b:c"], 2, "a:b:c"),
        (["--server", "localhost:1", "--tls-ca", "missing.pem"], 2, "--tls-ca: "),
    ],
)
def test_wrong_arguments_are_named(arguments, status, message, capsys):
    assert main(["explore", "--port", "0", *arguments]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_said(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["explore", "--port", str(port)]) == 2
    assert f"port {port}: Address already in use. --port 0" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_cannot_be_is_refused(port, capsys):
    with pytest.raises(SystemExit):
        main(["explore", f"--port={port}"])
    assert f"--port: expected a port from 0 to 65535; got '{port}'" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "polyhead_explorer.serve", raising=False)
    assert main(["explore"]) == 1
    assert "pip install 'polyhead[explore]'" in capsys.readouterr().err


def test_a_missing_server_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "polyhead_server.running", None)
    assert main(["explore", "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'polyhead[explore,server]'; or name a server" in error


@pytest.fixture
def _hangup_is_heard():
    """Below nohup SIGHUP is ignored, which a new process would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_hangup_is_heard")
@pytest.mark.parametrize(
    ("source", "model", "signal_sent"),
    [
        ((), b'"river-bank"', signal.SIGINT),
        ((), b'"river-bank"', signal.SIGTERM),
        (("--checkpoint",), b'"tiny-bert"', signal.SIGHUP),  # the terminal is closed
    ],
)
def test_the_page_is_served_until_a_signal_and_nothing_is_left(
    source, model, signal_sent, tmp_path
):
    if source:
        source += (str(tiny_checkpoint(tmp_path, "bert", [*SPECIAL, "bank"])),)
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "polyhead", "explore", "--port", "0", *source],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            line = process.stdout.readline().decode()
            port = int(re.search(r"http://localhost:(\d+)/", line)[1])
            with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.request("GET", "/api/models")
                assert model in connection.getresponse().read()
        finally:
            process.send_signal(signal_sent)
            try:
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()  # because one that does not end would stop all tests
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    assert list(folder.iterdir()) == []
