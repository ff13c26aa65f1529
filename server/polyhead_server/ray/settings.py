"""The settings of replicas: those of `polyhead serve`, but for what Serve's proxy does instead."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from polyhead_server.errors import StartupError
from polyhead_server.limits import StreamLimits
from polyhead_server.settings import ServerSettings
from polyhead_server.settings.option import variable_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_arguments", "read_settings"]

_OF_THE_PROXY = {
    "host": "Serve's gRPC proxy listens on every interface",
    "port": "set grpc_options.port",
    "workers": "set num_replicas or autoscaling_config",
    "tls_cert": "Serve's gRPC proxy speaks no TLS; let a proxy before it do so",
    "tls_key": "Serve's gRPC proxy speaks no TLS; let a proxy before it do so",
    "tls_client_ca": "Serve's gRPC proxy speaks no TLS; let a proxy before it do so",
    "max_connections": "connections end at Serve's gRPC proxy, which bounds them not",
    "max_concurrent_streams": "connections end at Serve's gRPC proxy, which bounds them not",
    "model_control": "such a call reaches one replica, and the others would serve other models; "
    "set watch, or deploy again",
}
"""Settings that a replica cannot have, and what to do instead."""
_STREAM_AGE_S = 10.0
"""Seconds after which a stream ends, and clients open another. A replica that is stopped waits for
its calls, for graceful_shutdown_timeout_s: 20 by default."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise StartupError for arguments of the application that are no settings of replicas."""
    known = {field.name for field in fields(ServerSettings) if not field.name.endswith("_limits")}
    for name in arguments:
        if name in _OF_THE_PROXY:
            raise StartupError(f"args.{name} has no meaning in Ray Serve: {_OF_THE_PROXY[name]}")
        if name not in known:
            raise StartupError(
                f"args.{name} is no setting; expected those of `polyhead serve --help`, such as "
                "models or max_queue_size"
            )
    _parsed(arguments)


def read_settings(arguments: Mapping[str, Any], resources: Mapping[str, float]) -> ServerSettings:
    """Read the settings of a replica from the application's arguments, or else the environment.

    ``resources``: what Ray has assigned to the replica. Raises StartupError.
    """
    from polyhead_server.process.resources.available_memory import available_memory

    memory = int(resources.get("memory", 0)) or available_memory()
    settings = ServerSettings.from_arguments(_parsed(arguments), available_bytes=memory)
    return replace(
        settings,
        threads=settings.threads or max(1, int(resources.get("CPU", 1))),
        stream_limits=StreamLimits(max_age_s=_STREAM_AGE_S),
    )


def _parsed(arguments: Mapping[str, Any]) -> Namespace:
    """Parse arguments, which are texts, numbers or bools, as the environment's values are."""
    texts = {variable_of(name): str(value) for name, value in arguments.items()}
    settings = ServerSettings.from_arguments(Namespace(), environment=texts)
    return Namespace(**{name: getattr(settings, name) for name in arguments})
