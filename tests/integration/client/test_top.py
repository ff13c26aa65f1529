"""`polyhead top`, against a real server."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

import polyhead
from polyhead import cli
from polyhead_server.running import running_server

QUERY = np.ones((2, 3, 6), np.float32)


def test_a_table_of_one_interval(capsys):
    with running_server(metrics_port=0) as server, polyhead.Client(server.target) as client:
        is_over = threading.Event()

        def call():
            while not is_over.is_set():
                client.attend(QUERY, model="river-bank")

        caller = threading.Thread(target=call)
        caller.start()
        try:
            address = f"localhost:{server.metrics_port}"
            assert cli.main(["top", "--once", "--interval", "0.3", "--metrics", address]) == 0
        finally:
            is_over.set()
            caller.join()
    summary, _, headings, row = capsys.readouterr().out.splitlines()
    assert summary.startswith("1 process   queue 0 of 256")
    assert headings.startswith("MODEL")
    name, version, rate, failed, tokens, p50, p99, _, batch, _ = row.split()
    assert (name, version, float(failed), float(batch)) == ("river-bank", "1", 0.0, 2.0)
    assert float(tokens) == pytest.approx(6 * float(rate), rel=0.1)
    assert 0 < float(p50) <= float(p99)


def test_a_server_without_metrics_is_an_error_with_advice(capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        assert cli.main(["top", "--once", "--metrics", address]) == 1
    assert "start the server with --metrics-port" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--metrics", "9464"], ["--interval", "0"]])
def test_values_that_make_no_sense_are_refused(given, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["top", *given])
    assert ended.value.code == 2
    assert given[0] in capsys.readouterr().err
