"""A real Prometheus reads a server by deploy/observe: each query has an answer, no alert fires."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest
import yaml
from observed import OBSERVE, alerts, call, observed_server, queries

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")),
        reason="needs Prometheus: apt-get install prometheus",
    ),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port):
        self._page = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path, **parameters):
        url = f"{self._page}/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]

    def ask(self, query):
        return self.get("query", query=query)["result"]


@contextmanager
def prometheus(target, folder):
    """Start Prometheus with the project's configuration, but for the target and the intervals."""
    config = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(OBSERVE / "alerts.yml")]
    [scrape] = config["scrape_configs"]
    del scrape["dns_sd_configs"]
    scrape["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(timeout=30)


def until(condition, within_s=30):
    give_up_at = time.monotonic() + within_s
    while True:
        try:
            if condition():
                return
        except OSError:  # not yet listening
            pass
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_every_query_has_an_answer_and_no_alert_fires(tmp_path):
    with (
        observed_server(tmp_path) as (server, token),
        prometheus(f"127.0.0.1:{server.metrics_port}", tmp_path) as observer,
    ):
        until(lambda: observer.ask("count_over_time(up[1m]) >= 2"))
        for _ in range(20):
            call(server, token)
        seen = 'polyhead_requests_total{outcome="answered"} >= 21'
        until(lambda: observer.ask(seen))
        empty = [
            place
            for place, query in queries("1m").items()
            if place not in alerts() and not observer.ask(query)
        ]
        assert not empty
        [rate] = observer.ask(queries("1m")["Answered requests A"])
        assert float(rate["value"][1]) > 0
        until(lambda: all(rule["health"] == "ok" for rule in rules(observer)))
        assert {rule["name"]: rule["state"] for rule in rules(observer)} == dict.fromkeys(
            alerts(), "inactive"
        )


def rules(observer):
    return [rule for group in observer.get("rules")["groups"] for rule in group["rules"]]


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "deploy/observe/prometheus.yml"),
        ("check", "rules", "deploy/observe/alerts.yml"),
        ("test", "rules", "tests/deploy/alerts-test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_configuration_and_alerts(command):
    done = subprocess.run(
        ["promtool", *command], cwd=OBSERVE.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
