"""A server on a socket of a path is reached by the client and by every command."""

from __future__ import annotations

import signal
import socket
import sys

import numpy as np
import pytest
from serving import serving

import polyhead
from polyhead import cli
from polyhead_server.errors import StartupError
from polyhead_server.running import running_server
from polyhead_server.settings import ServerSettings

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets")
QUERY = np.ones((1, 3, 6), np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket has a hundred characters at most
    return tmp_path


@pytest.mark.parametrize("form", ["unix:{}/s", "unix://{}/s", "unix:s"])
@pytest.mark.parametrize("transport", ["unary", "stream"])
def test_the_client_is_served(folder, form, transport):
    with running_server(host=form.format(folder)) as server:
        assert server.target == form.format(folder)
        with polyhead.Client(server.target, transport=transport) as client:
            assert client.is_ready()
            assert client.attend(QUERY, model="river-bank").output.shape == QUERY.shape


def test_every_command_is_served(folder, monkeypatch, capsys):
    np.save("query.npy", QUERY)
    with serving("--host", "unix:s") as server:
        assert server.address == "unix:s"
        monkeypatch.setenv("POLYHEAD_SERVER", server.address)
        for command in (
            ["health"],
            ["info"],
            ["models"],
            ["attend", "query.npy", "--model", "river-bank"],
            ["bench", "--requests", "4", "--warmup", "0.1", "--tokens", "3"],
            ["demo"],
        ):
            assert cli.main(command) == 0, capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="connections are ended on Linux")
def test_idle_connections_do_not_hold_up_the_end(folder):
    with serving("--host", "unix:s", "--grace-s", 30) as server:
        with polyhead.Client("unix:s") as client:
            client.attend(QUERY, model="river-bank")
            server.process.send_signal(signal.SIGTERM)
            server.read_until("stopped")
        assert server.process.wait(timeout=20) == 0


def test_what_a_server_left_behind_is_replaced_and_a_server_is_not(folder):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("s")
    for _ in range(2):
        with running_server(host="unix:s"):
            with pytest.raises(StartupError, match=r"unix:s: Address already in use.* --host"):
                running_server(host="unix:s").__enter__()
            with polyhead.Client("unix:s") as client:
                assert client.is_ready()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("unix:file", "There is a file that is no socket"),
        ("unix:nowhere/s", "No such file or directory"),
        ("unix:" + "x" * 200, "too long"),
    ],
)
def test_a_path_that_cannot_be_a_socket_is_refused(folder, host, reason):
    (folder / "file").touch()
    with pytest.raises(StartupError, match=rf"cannot listen on unix:.*{reason}"):
        running_server(host=host).__enter__()
    assert (folder / "file").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"host": "unix:"}, "expected unix:PATH"), ({"host": "unix:s", "workers": 2}, "--workers 1")],
)
def test_settings_that_contradict_a_socket_are_refused(settings, message):
    with pytest.raises(StartupError, match=message):
        ServerSettings(**settings)
