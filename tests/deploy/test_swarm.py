"""deploy/swarm, run in a Swarm of one node: a rolling update, and one that is taken back."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from containers import IMAGE, build_image, docker, load, make_secrets

pytestmark = pytest.mark.deploy
STACK = "polyhead-test"
SERVER, NETWORK = f"{STACK}_server", f"{STACK}_calls"
FILES = {"FILES": "test", "POLYHEAD_IMAGE": IMAGE}
CALLERS = [
    *("stock=envoy:50051", "client=envoy:50051"),
    *(
        "client=dns:///server:50051",
        "stream=dns:///server:50051",
        "round_robin=dns:///server:50051",
    ),
]


@contextmanager
def deployed(name, *files, **environment):
    """Deploy a stack, and remove it with its network."""
    stack = [word for file in files for word in ("--compose-file", f"deploy/swarm/{file}")]
    options = ("--detach=false", "--resolve-image", "never")
    try:
        docker("stack", "deploy", *options, *stack, name, **FILES, **environment)
        yield
    finally:
        docker("stack", "rm", name)  # the command waits for ever at times if asked to wait
        give_up_at = time.monotonic() + 120
        while docker("network", "ls", "--quiet", "--filter", f"name={name}_calls"):
            assert time.monotonic() < give_up_at, "the stack's network stays"
            time.sleep(0.5)


def update(*options, check=True):
    return docker("service", "update", "--detach=false", *options, SERVER, check=check)


def tasks():
    """Return the running servers' ids."""
    running = ("--filter", "desired-state=running", "--format", "{{.ID}} {{.CurrentState}}")
    lines = docker("service", "ps", *running, SERVER).splitlines()
    return {line.split()[0] for line in lines if "Running" in line}


@pytest.fixture(scope="module", autouse=True)
def swarm():
    build_image()
    if docker("info", "--format", "{{.Swarm.ControlAvailable}}") != "true":
        pytest.skip("needs a Swarm: docker swarm init")


@pytest.fixture(scope="module")
def stack(swarm):
    with deployed(STACK, "stack.yml"):
        yield


def test_a_rolling_update_costs_no_call(stack):
    before = tasks()
    with load(NETWORK, *CALLERS) as calls:
        update("--force")
        calls.until_answered()
    after = tasks()
    assert len(after) == 3
    assert not after & before
    assert not calls.failed()


def test_a_version_that_does_not_get_healthy_is_taken_back(stack):
    before = tasks()
    with load(NETWORK, *CALLERS) as calls:
        update("--env-add", "POLYHEAD_PROVIDER=none", check=False)
        calls.until_answered()
    status = docker("service", "inspect", "--format", "{{.UpdateStatus.State}}", SERVER)
    assert status == "rollback_completed"
    assert tasks() == before
    assert not calls.failed()


def test_tls_and_tokens_come_from_secrets(tmp_path):
    secrets = make_secrets(tmp_path)
    call = ["run", "--rm", "--network", "host", "--volume", f"{secrets}:/secrets:ro", IMAGE]
    call += ["models", "--server", "localhost:50051"]
    files = ("stack.yml", "secure.yml")
    with deployed("polyhead-test-secure", *files, POLYHEAD_SECRETS=str(secrets)):
        trusted = ["--tls-ca", "/secrets/ca.pem", "--token-file", "/secrets/token.txt"]
        assert "river-bank" in docker(*call[:2], "--user", "0", *call[2:], *trusted)
        assert "river-bank" not in docker(*call, check=False)
