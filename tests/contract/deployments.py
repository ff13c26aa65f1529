"""Starts a deployment of each kind, with a repository of models."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

__all__ = ["STARTS"]

MAX_REQUEST_BYTES = 32 << 20
"""Small, because a request over the limit is sent."""


@contextmanager
def one_server(repository, _):
    """`polyhead serve`, in this process."""
    from polyhead_server.running import running_server

    with running_server(repository, threads=1, max_request_bytes=MAX_REQUEST_BYTES) as server:
        yield server.target


@contextmanager
def behind_envoy(repository, folder):
    """Three servers behind Envoy, with deploy/envoy/envoy.yaml."""
    from envoy import balancing
    from serving import serving

    with ExitStack() as stack:
        arguments = ["--models", repository, "--threads", 1]
        arguments += ["--max-request-bytes", MAX_REQUEST_BYTES]
        servers = [stack.enter_context(serving(*arguments)) for _ in range(3)]
        yield stack.enter_context(balancing([each.address for each in servers], folder)).address


@contextmanager
def on_ray(repository, folder):
    """Two replicas of Ray Serve, one on each of two nodes of a cluster."""
    from ray_cluster import cluster, serving_on_ray

    settings = {"models": str(repository), "max_request_bytes": MAX_REQUEST_BYTES}
    with cluster() as nodes, serving_on_ray(nodes, folder, settings) as deployed:
        yield deployed.address


STARTS = {"server": one_server, "envoy": behind_envoy, "ray": on_ray}
"""By kind: a context manager of the address, given the repository and a folder to write into."""
