"""What deploy/observe asks of Prometheus, and a server that has every series of it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

import polyhead
from polyhead_server.auth.tokens import make_token
from polyhead_server.running import running_server

OBSERVE = Path(__file__).parents[2] / "deploy/observe"
DASHBOARD = OBSERVE / "grafana/dashboards/polyhead.json"
QUERY = np.ones((2, 3, 6), np.float32)


def alerts():
    """Return the alerts by their names."""
    [group] = yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def panels():
    return json.loads(DASHBOARD.read_text())["panels"]


def queries(interval="5m"):
    """Return the queries of the dashboard and of the alerts, by where they are."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            place = f"{panel['title']} {target['refId']}"
            found[place] = target["expr"].replace("$__rate_interval", interval)
    return found | {name: alert["expr"] for name, alert in alerts().items()}


@contextmanager
def observed_server(folder):
    """Serve, and count calls of a caller with a name: answered ones and refused ones."""
    tokens = folder / "tokens.txt"
    token, line = make_token("ci", ["infer"])
    tokens.write_text(f"{line}\n")
    with running_server(metrics_port=0, tokens_file=tokens) as server:
        call(server, token)
        yield server, token


def call(server, token):
    with polyhead.Client(server.target, token=token) as client:
        client.attend(QUERY, model="river-bank")
        try:
            client.attend(QUERY, model="made-up")
        except polyhead.ModelNotFoundError:
            return
    raise AssertionError("a model that there is not was found")
