"""docker-compose.yml, run: three servers behind Envoy, of which one ends; TLS and tokens."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from containers import IMAGE, build_image, docker, load, make_secrets

pytestmark = pytest.mark.deploy
CALLERS = ["stock=envoy:50051", "client=envoy:50051", "client=dns:///server:50051"]


class Compose:
    """A project of compose that a test has started."""

    def __init__(self, project, *files):
        self._project = project
        self._files = [word for file in files for word in ("--file", file)]
        self.network = f"{project}_default"

    def __call__(self, *arguments, **environment):
        name = ("--project-name", self._project)
        return docker(
            "compose", *name, *self._files, "--profile", "scale", *arguments, **environment
        )

    def servers(self):
        return self("ps", "--quiet", "server").split()

    def wait(self, servers=3):
        self("up", "--detach", "--wait", "--no-recreate", "--scale", f"server={servers}", "envoy")

    def answered(self):
        """Count the calls that each replica has answered, as Envoy's access log has it."""
        lines = self("logs", "--no-log-prefix", "envoy").splitlines()
        calls = [json.loads(line) for line in lines if line.startswith('{"')]
        return Counter(call["replica"] for call in calls if call["grpc_status"] == "OK")


@pytest.fixture(scope="module")
def override(tmp_path_factory):
    """An image of its own, and no ports of this machine."""
    build_image()
    file = tmp_path_factory.mktemp("compose") / "override.yml"
    names = ("server", "client", "ui", "envoy")
    services = "".join(f"  {name}:\n    ports: !reset []\n" for name in names)
    services = services.replace("ports", f"image: {IMAGE}\n    ports", 3)
    file.write_text(f"services:\n{services}")
    return file


@pytest.fixture(scope="module")
def compose(override):
    compose = Compose("polyhead-test", "docker-compose.yml", override)
    try:
        compose.wait()
        yield compose
    finally:
        compose("down", "--volumes", "--timeout", 10)


def test_calls_are_spread_evenly(compose):
    before = compose.answered()
    with load(compose.network, "stock=envoy:50051") as calls:
        calls.until_answered(300)
    assert not calls.failed()
    answered = compose.answered() - before
    assert len(answered) == 3
    assert min(answered.values()) > 0.8 * max(answered.values()), answered


def test_a_server_that_is_killed_costs_no_call(compose):
    with load(compose.network, *CALLERS) as calls:
        killed = compose.servers()[0]
        docker("kill", "--signal", "KILL", killed)
        calls.until_answered()
        docker("start", killed)
        compose.wait()
        calls.until_answered()
    assert not calls.failed()


def test_a_rolling_restart_costs_no_call(compose):
    with load(compose.network, *CALLERS, "stream=dns:///server:50051") as calls:
        for server in compose.servers():
            docker("restart", server)
            compose.wait()
            calls.until_answered()
    assert not calls.failed()


def test_tls_and_tokens_come_from_secrets(override, tmp_path):
    secrets = make_secrets(tmp_path)
    both = ("docker-compose.yml", "deploy/compose/secure.yml")
    compose = Compose("polyhead-test-secure", *both, override)
    files = {"POLYHEAD_SECRETS": str(secrets)}
    try:
        compose("up", "--detach", "--wait", "server", "ui", "envoy", **files)
        run = ("run", "--rm", "--no-deps", "--no-TTY")
        assert "The sentence moved" in compose(*run, "client", **files)
        named = ("--env", "POLYHEAD_CLIENT_TLS_SERVER_NAME=envoy")
        command = ("client", "models", "--server", "envoy:50051")
        assert "river-bank" in compose(*run, *named, *command, **files)
        without = ("run", "--rm", "--network", compose.network, IMAGE)
        refused = docker(*without, "models", "--server", "server:50051", check=False)
        assert "river-bank" not in refused
    finally:
        compose("down", "--volumes", "--timeout", 10, **files)
