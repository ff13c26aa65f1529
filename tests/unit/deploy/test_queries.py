"""The dashboard and the alerts ask for metrics and labels that a server has."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import promql_parser as promql
import pytest
import yaml
from observed import OBSERVE, alerts, observed_server, panels, queries

from polyhead.cli.servers.metrics_page import read_page
from polyhead_server.process.metrics.families import _go_code

ROOT = Path(__file__).parents[3]
RUNBOOK = ROOT / "docs/runbook.md"
ALERT_TESTS = ROOT / "tests/deploy/alerts-test.yml"
QUERIES = queries()
SCRAPED = {"job", "instance", "worker"}
"""Labels that Prometheus adds, and the supervisor of several workers."""


@pytest.fixture(scope="module")
def labels_of(tmp_path_factory):
    """The labels of each metric of a running server."""
    with observed_server(tmp_path_factory.mktemp("tokens")) as (server, _):
        page = read_page("127.0.0.1", server.metrics_port, 10)
    own = {
        name: {label for labels, _ in samples for label in labels}
        for name, samples in page.samples.items()
    }
    return own | {"up": set()}


def selectors(expression):
    """Yield the series that an expression reads."""
    found = []
    promql.walk(expression, found.append)
    for node in found:
        if isinstance(node, promql.MatrixSelector):
            yield node.vector_selector
        elif isinstance(node, promql.VectorSelector):
            yield node


@pytest.mark.parametrize("place", QUERIES)
def test_a_query_reads_metrics_that_there_are_by_labels_that_they_have(place, labels_of):
    text = QUERIES[place]
    read = list(selectors(promql.parse(text)))
    assert read, text
    known = set(SCRAPED)
    for selector in read:
        assert selector.name in labels_of, text
        own = labels_of[selector.name] | SCRAPED
        assert {matcher.name for matcher in selector.matchers.matchers} <= own, text
        known |= own
    for names in re.findall(r"\b(?:by|ignoring|on) *\(([^)]*)\)", text):
        assert set(re.split(r",\s*", names)) <= known, text


def test_values_that_queries_name_are_those_of_the_metrics():
    codes = {_go_code(code.name) for code in grpc.StatusCode}
    configuration = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())
    [scrape] = configuration["scrape_configs"]
    wanted = {"grpc_code": codes, "outcome": {"answered", "failed"}, "grpc_type": {"unary"}}
    wanted["job"] = {scrape["job_name"]}
    seen = set()
    for text in QUERIES.values():
        for selector in selectors(promql.parse(text)):
            for matcher in selector.matchers.matchers:
                assert set(matcher.value.split("|")) <= wanted[matcher.name], text
                seen.add(matcher.name)
    assert seen == set(wanted)


def test_legends_name_labels_of_their_query():
    for panel in panels():
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


def test_panels_lie_beside_each_other():
    places = [panel["gridPos"] for panel in panels()]
    cells = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels()}) == len(places)


def test_every_alert_has_a_section_of_the_runbook():
    sections = re.findall(r"^## (Polyhead\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == list(alerts())
    for name, alert in alerts().items():
        assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert alert["labels"]["severity"] in ("page", "ticket")


def test_every_alert_is_tested():
    tests = yaml.safe_load(ALERT_TESTS.read_text())["tests"]
    fires, silent = set(), set()
    for case in (case for test in tests for case in test["alert_rule_test"]):
        (fires if case.get("exp_alerts") else silent).add(case["alertname"])
    assert fires == silent == set(alerts())


def test_grafana_finds_its_data_source_and_its_dashboard():
    provisioning = OBSERVE / "grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert source["url"].startswith("http://prometheus:")
    assert compose["prometheus"]["profiles"] == compose["grafana"]["profiles"] == ["observe"]
    provided = yaml.safe_load((provisioning / "dashboards/polyhead.yaml").read_text())
    [provider] = provided["providers"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert mounts["./deploy/observe/grafana/dashboards"] == provider["options"]["path"]
    assert {panel["datasource"]["type"] for panel in panels()} == {source["type"]}
