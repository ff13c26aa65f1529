"""The Dockerfile, the files of compose and those of Swarm fit the server, and one another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from variables import known_variables, settings_of

from polyhead import __version__

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FILES = ["docker-compose.yml", "deploy/compose/secure.yml", "deploy/swarm/stack.yml"]
FILES += ["deploy/swarm/secure.yml"]
COMPOSE, SECURE, STACK, SECURE_STACK = FILES


def services(file):
    return yaml.safe_load((ROOT / file).read_text())["services"]


def secrets_of(service):
    """Return the paths at which a service finds its secrets."""
    names = [each if isinstance(each, str) else each["target"] for each in service["secrets"]]
    return {name if name.startswith("/") else f"/run/secrets/{name}" for name in names}


def test_the_image_is_labelled_with_the_version():
    assert re.search(r"^ARG VERSION=(.*)$", DOCKERFILE, re.MULTILINE)[1] == __version__


def test_cpu_is_the_default_target():
    assert re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE)[-2:] == ["gpu", "cpu"]


def test_variables_of_the_images_are_those_that_polyhead_reads():
    ours = set(re.findall(r"(POLYHEAD_\w+)=", DOCKERFILE))
    assert "POLYHEAD_MODELS_CACHE" in ours
    assert ours <= known_variables()


@pytest.mark.parametrize("file", FILES)
def test_every_variable_is_one_that_polyhead_reads(file):
    for service in services(file).values():
        ours = {name for name in service.get("environment", {}) if name.startswith("POLYHEAD_")}
        assert ours <= known_variables()


@pytest.mark.parametrize("file", [SECURE, SECURE_STACK])
def test_every_file_of_certificates_and_tokens_is_a_secret(file):
    server, envoy = (services(file)[name] for name in ("server", "envoy"))
    assert set(server["environment"].values()) == secrets_of(server)
    configuration = (ROOT / "deploy/envoy/envoy.yaml").read_text()
    assert set(re.findall(r"/secrets/[\w.-]+", configuration)) - {"/secrets"} == secrets_of(envoy)


def test_callers_of_a_secure_server_have_its_authority_and_a_token():
    for name in ("client", "ui"):
        caller = services(SECURE)[name]
        paths = {value for value in caller["environment"].values() if value.startswith("/")}
        assert paths == secrets_of(caller)


def test_the_stack_gives_a_server_as_long_as_it_takes_to_stop():
    server = services(STACK)["server"]
    settings = settings_of(server["environment"])
    assert settings.drain_delay_s > 0  # until no caller has the address
    grace_s = int(server["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.drain_delay_s + settings.grace_s


def test_envoy_is_the_same_in_compose_and_swarm():
    one, other = services(COMPOSE)["envoy"], services(STACK)["envoy"]
    for name in ("image", "user", "command", "healthcheck", "read_only", "cap_drop"):
        assert one[name] == other[name], name
