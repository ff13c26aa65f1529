"""deploy/compose/production.yml fits docker-compose.yml, the settings and the page that uses it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from polyhead_server.settings import ServerSettings

yaml = pytest.importorskip("yaml", reason="needs PyYAML: make test installs it")
ROOT = Path(__file__).parents[3]


def services(name):
    return yaml.safe_load((ROOT / name).read_text())["services"]


@pytest.fixture(scope="module")
def production():
    return services("deploy/compose/production.yml")


def test_it_changes_services_that_there_are(production):
    assert set(production) <= set(services("docker-compose.yml"))


def test_its_settings_are_settings_of_serve(production):
    parser = argparse.ArgumentParser(add_help=False)
    ServerSettings.add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    server = production["server"]
    names = {f"--{name.removeprefix('POLYHEAD_').lower()}" for name in server["environment"]}
    assert {name.replace("_", "-") for name in names} <= flags
    parser.parse_args(server["command"][1:])


def test_replicas_that_stop_answer_until_envoy_has_left_them(production):
    envoy = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())
    [cluster] = envoy["static_resources"]["clusters"]
    [check] = cluster["health_checks"]
    notices_s = float(check["interval"].rstrip("s")) * check["unhealthy_threshold"]
    delay_s = float(production["server"]["environment"]["POLYHEAD_DRAIN_DELAY_S"])
    assert delay_s > notices_s
    grace_s = float(services("docker-compose.yml")["server"]["stop_grace_period"].rstrip("s"))
    assert grace_s > delay_s + 30  # --grace-s


def test_locust_has_a_port_of_this_machine_only():
    assert services("docker-compose.yml")["load"]["ports"] == ["127.0.0.1:8089:8089"]


def test_the_page_names_the_ports_at_which_services_are():
    page = (ROOT / "docs/production.md").read_text()
    published = {
        re.sub(r"\${\w+:-(\d+)}", r"\1", port).split(":")[1]
        for service in services("docker-compose.yml").values()
        for port in service.get("ports", [])
        if port.startswith("127.0.0.1:") and "::" not in port
    }
    assert set(re.findall(r"localhost:(\d+)", page)) == published


def test_the_page_names_what_there_is(production):
    page = (ROOT / "docs/production.md").read_text()
    assert "deploy/compose/production.yml" in page
    profiles = {
        profile
        for service in services("docker-compose.yml").values()
        for profile in service.get("profiles", [])
    }
    [line] = [line for line in page.splitlines() if "COMPOSE_PROFILES=" in line]
    assert set(line.partition("=")[2].split(",")) <= profiles
