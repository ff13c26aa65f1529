"""The application of Ray Serve that serves polyhead's services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead_server.ray.settings import check_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.serve import Application

__all__ = ["app"]

_MAX_ONGOING_REQUESTS = 256
"""Calls of one replica at once; Serve lets further ones wait in its proxy. A replica has a queue of
its own, so this only bounds what Serve holds."""
_TARGET_ONGOING_REQUESTS = 8.0
"""Calls of one replica at once from which on Serve starts another one."""
_MAX_REPLICAS = 4


def app(args: Mapping[str, Any]) -> Application:
    """Build the application; Serve calls this with ``args`` of its configuration.

    ``args``: settings of `polyhead serve` by name, with underscores: ``models``, ``threads``. What
    Serve decides, such as replicas and CPUs, is set in the configuration's ``deployments``, under
    the name ``polyhead``. Raises StartupError for what is no setting of a replica.
    """
    from ray import serve

    from polyhead_server.ray.replica import Replica

    check_arguments(args)
    deployment = serve.deployment(
        name="polyhead",
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": _MAX_REPLICAS,
            "target_ongoing_requests": _TARGET_ONGOING_REQUESTS,
        },
        ray_actor_options={"num_cpus": 1},
    )(Replica)
    application: Application = deployment.bind(dict(args))
    return application
