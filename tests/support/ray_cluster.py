"""A Ray cluster of two nodes on this machine, and polyhead on it by deploy/ray/serve.yaml."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# read when Ray is imported, and by its processes
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112 - Ray's spelling; for busy machines
os.environ["RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING"] = "0"  # calls go to both nodes

with warnings.catch_warnings():  # Ray uses what its own libraries call deprecated
    warnings.simplefilter("ignore")
    import ray
    from ray.cluster_utils import Cluster
    from ray.serve.context import _get_global_client

CONFIGURATION = Path(__file__).parents[2] / "deploy/ray/serve.yaml"
_STORE_BYTES = 128 << 20


@dataclass
class Nodes:
    """A cluster, and its node beside the head, each with CPUs for two replicas."""

    cluster: Cluster
    worker: Any

    def kill_worker(self):
        """Kill the processes of the node beside the head."""
        self.cluster.remove_node(self.worker, allow_graceful=False)

    def add_worker(self):
        self.worker = self.cluster.add_node(num_cpus=2, object_store_memory=_STORE_BYTES)


@contextmanager
def cluster():
    """Start two nodes, and end them."""
    head = {"num_cpus": 2, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = Nodes(started, None)
        nodes.add_worker()
        ray.init(address=started.address, logging_level="warning", log_to_driver=False)
        try:
            yield nodes
        finally:
            ray.shutdown()
    finally:
        started.shutdown()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def running_replicas():
    """Return the node of each replica that runs, by the replica's id."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:  # Serve has not begun
        return {}
    details = client.get_serve_details()
    application = details["applications"].get("polyhead", {"deployments": {}})
    replicas = application["deployments"].get("polyhead", {"replicas": []})["replicas"]
    return {each["replica_id"]: each["node_id"] for each in replicas if each["state"] == "RUNNING"}


def wait_for_replicas(number, within_s=60):
    """Wait until so many replicas run; return how long it took."""
    began = time.monotonic()
    while len(running_replicas()) != number:
        assert time.monotonic() - began < within_s, running_replicas()
        time.sleep(0.1)
    return time.monotonic() - began


def configured(settings, deployment):
    """Return the configuration with other ports, args, and options of the deployment."""
    config = yaml.safe_load(CONFIGURATION.read_text())
    config["proxy_location"] = "HeadOnly"  # because all nodes share the ports of this machine
    config["http_options"]["port"], config["grpc_options"]["port"] = free_port(), free_port()
    [application] = config["applications"]
    application["args"] |= {"threads": 1, **settings}
    application["deployments"][0] |= deployment
    return config


class Deployed:
    """polyhead on a cluster, deployed by `serve run`."""

    def __init__(self, nodes, folder, config):
        self._nodes, self._folder, self._config = nodes, folder, config
        self.address = f"127.0.0.1:{config['grpc_options']['port']}"
        self.process = self._run()
        wait_for_replicas(2, within_s=90)

    def _run(self):
        file, log = self._folder / "serve.yaml", self._folder / "serve.log"
        file.write_text(yaml.safe_dump(self._config))
        command = [sys.executable, "-m", "ray.serve.scripts", "run", str(file)]
        command += ["--address", self._nodes.cluster.address]
        with log.open("a") as output:
            return subprocess.Popen(command, stdout=output, stderr=output)

    def deploy_again(self, **settings):
        """Deploy with other args, and wait until no replica from before runs."""
        self._config["applications"][0]["args"] |= settings
        before, began = running_replicas().keys(), time.monotonic()
        last, self.process = self.process, self._run()
        last.kill()  # which lets Serve run on
        last.wait()
        while before & running_replicas().keys() or len(running_replicas()) < 2:
            assert time.monotonic() - began < 90, running_replicas()
            time.sleep(0.1)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


@contextmanager
def serving_on_ray(nodes, folder, settings, **deployment):
    """Serve on a cluster, and stop.

    ``settings``: args of the application. ``deployment``: options of the deployment, which must
    begin with two replicas; without any, it keeps two.
    """
    replicas = {"autoscaling_config": {"min_replicas": 2, "max_replicas": 2}}
    deployed = Deployed(nodes, folder, configured(settings, deployment or replicas))
    try:
        yield deployed
    finally:
        deployed.stop()
