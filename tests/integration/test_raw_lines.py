"""gRPC's library in C writes nothing of its own: not among JSON logs, and not on a terminal."""

from __future__ import annotations

import json
import os
import subprocess

import grpc
import pytest
from serving import command, serving

HEALTH = "/grpc.health.v1.Health/Check"


def without_verbosity():
    return {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}


def test_a_served_process_logs_json_alone(monkeypatch):
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    with serving() as server:
        with grpc.insecure_channel(server.address) as channel:
            check = channel.unary_unary(HEALTH)
            with pytest.raises(grpc.RpcError):  # which gRPC would log as an error
                check(b"x" * 64, timeout=20, compression=grpc.Compression.Gzip)
        server.process.terminate()
        for line in server.process.stderr:
            json.loads(line)


def test_a_command_writes_its_own_line_alone():
    done = subprocess.run(
        command("health", "ipv4:1.2.3.400:1"),
        env=without_verbosity(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("polyhead: the call to ipv4:1.2.3.400:1 failed")
    assert done.stderr.count("\n") == 1
