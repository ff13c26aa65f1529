"""Envoy as a process, with the project's own configuration and the addresses of a test."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy/envoy/envoy.yaml"


def find_envoy() -> str | None:
    """Find the binary in this environment, or wherever the machine has it."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else shutil.which("envoy")


def configured(addresses, secrets=None):
    """Return the configuration, listening on free ports, with replicas at these addresses.

    ``secrets``: a folder of certificates and keys; None: no TLS.
    """
    text = CONFIGURATION.read_text()
    if secrets:
        text = text.replace("#tls ", "").replace("/secrets/", f"{secrets}/")
    config = yaml.safe_load(text)
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    [listener], [cluster] = (config["static_resources"][name] for name in ("listeners", "clusters"))
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    [endpoints] = cluster["load_assignment"]["endpoints"]
    endpoints["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
        for host, _, port in (address.rpartition(":") for address in addresses)
    ]
    return config


class Envoy:
    """A running Envoy."""

    def __init__(self, process, admin):
        self.process = process
        self.admin = admin
        [listener] = self.get("listeners")["listener_statuses"]
        address = listener["local_address"]["socket_address"]
        self.address = f"{address['address']}:{address['port_value']}"

    def get(self, page):
        """Read a page of the admin port."""
        with urllib.request.urlopen(f"http://{self.admin}/{page}?format=json") as response:
            return json.load(response)

    def replicas(self):
        """Return what Envoy knows of each replica, by its address."""
        [cluster] = self.get("clusters")["cluster_statuses"]
        found = {}
        for host in cluster["host_statuses"]:
            address = host["address"]["socket_address"]
            stats = {each["name"]: int(each.get("value", 0)) for each in host["stats"]}
            found[f"{address['address']}:{address['port_value']}"] = {
                "answered": stats["rq_success"],
                "is_healthy": host["health_status"] == {"eds_health_status": "HEALTHY"},
            }
        return found

    def healthy(self):
        return {address for address, state in self.replicas().items() if state["is_healthy"]}

    def wait_for(self, addresses, within_s=30):
        """Wait until these replicas are healthy and no others; return how long it took."""
        began = time.monotonic()
        while self.healthy() != set(addresses):
            assert time.monotonic() - began < within_s, (self.replicas(), addresses)
            time.sleep(0.05)
        return time.monotonic() - began


@contextmanager
def balancing(addresses, folder, secrets=None):
    """Start Envoy before servers, and end it."""
    file, admin, log = (folder / name for name in ("envoy.yaml", "admin.txt", "envoy.log"))
    file.write_text(yaml.safe_dump(configured(addresses, secrets)))
    command = [find_envoy(), "-c", file, "--admin-address-path", admin, "--use-dynamic-base-id"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*map(str, command), "--concurrency", "1", "--log-level", "warning"],
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + 20
        while not (admin.exists() and admin.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        envoy = Envoy(process, admin.read_text())
        envoy.wait_for(addresses)
        yield envoy
    finally:
        process.terminate()
        process.wait(timeout=30)
