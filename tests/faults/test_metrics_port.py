"""A client that asks for the metrics as fast as it can, and calls beside it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from urllib.request import urlopen

import pytest
from liveness import Bystander, survives
from serving import serving

pytestmark = pytest.mark.faults


def test_requests_for_metrics_leave_the_time_to_calls():
    with serving("--threads", 1, "--metrics-port", 0) as server, survives(server):
        [serving_event] = [event for event in server.events if event["event"] == "serving"]
        url = f"http://{serving_event['metrics']}/metrics"
        until = time.monotonic() + 7

        def ask():
            while time.monotonic() < until:
                with suppress(OSError):
                    urlopen(url, timeout=5).read()

        with Bystander(server.address) as bystander:
            usual = bystander.calls_during(2)
            clients = [threading.Thread(target=ask) for _ in range(8)]
            for client in clients:
                client.start()
            during = bystander.calls_during(4)
            for client in clients:
                client.join()
        share = sum(took < 5 for took in during) / 4 / (len(usual) / 2)
        print(f"goodput {share:.2f}")
        assert share > 0.6
