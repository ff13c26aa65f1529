"""A server that is started with standard streams closed serves, drains and ends as any other."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
from serving import command

import polyhead

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the streams")
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]
QUERY = np.ones((1, 3, 6), np.float32)
PROGRAM = """
import numpy as np, polyhead
from polyhead_server.running import running_server

for _ in range(2):
    with running_server() as server, polyhead.Client(server.target) as client:
        client.attend(np.ones((1, 3, 6), np.float32), model="river-bank")
print("served")
"""


def start(closed, arguments):
    """Start a command with the streams closed that a shell's redirections name."""
    return subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def port():
    """A free port, chosen here because a server without streams cannot say which it chose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("closed", CLOSED)
def test_polyhead_serve_drains_and_ends_with_0(port, closed, workers):
    if workers > 1 and sys.platform != "linux":
        pytest.skip("--workers needs Linux")
    arguments = command(
        "serve", "--port", port, "--workers", workers, "--threads", 1, "--log-format", "json"
    )
    process = start(closed, arguments)
    try:
        with polyhead.Client(f"127.0.0.1:{port}") as client:
            client.wait_until_ready(timeout=60)
            results = [client.attend(QUERY, model="river-bank") for _ in range(3)]
        assert {result.output.shape for result in results} == {(1, 3, 6)}
        process.terminate()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out == ""
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[-1:] == ([] if "2>&-" in closed else ["stopped"])


@pytest.mark.parametrize("closed", CLOSED)
def test_a_program_with_a_running_server_ends_with_0(closed):
    process = start(closed, [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ("" if " >&-" in f" {closed}" else "served\n")
    # asyncio's debug mode reports each step of over 0.1 s, which a busy machine causes
    assert [line for line in err.splitlines() if not line.startswith("Executing <")] == []
