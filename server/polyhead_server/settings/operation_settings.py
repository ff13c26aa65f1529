"""Settings of operation: logs, metrics, health, and the end of the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from polyhead_server.limits import WorkerLimits
from polyhead_server.settings.option import Option

__all__ = ["OperationSettings"]


@dataclass(frozen=True, kw_only=True)
class OperationSettings:
    """How the server is watched, and how it ends."""

    reflection: Annotated[bool, Option("let clients such as grpcurl discover the services")] = True
    worker_timeout_s: Annotated[
        float,
        Option(
            "seconds without a sign of life after which a worker is killed and replaced",
            at_least=2,
            at_most=86_400,
        ),
    ] = 20.0
    drain_delay_s: Annotated[
        float,
        Option(
            "on SIGTERM: seconds to report NOT_SERVING before draining", at_least=0, at_most=86_400
        ),
    ] = 0.0
    grace_s: Annotated[
        float, Option("on SIGTERM: seconds that calls have to finish", at_least=0, at_most=86_400)
    ] = 30.0
    log_format: Annotated[
        str,
        Option("auto: text on a terminal, otherwise JSON lines", choices=("auto", "json", "text")),
    ] = "auto"
    log_level: Annotated[
        str, Option("least severe events to log", choices=("debug", "info", "warning", "error"))
    ] = "info"
    access_log_sample: Annotated[
        float,
        Option(
            "share of the successful calls that are logged, 1: all; calls that fail are logged "
            "always",
            at_least=0,
            at_most=1,
        ),
    ] = 0.0
    metrics_port: Annotated[
        int | None,
        Option(
            "port of the metrics for Prometheus, http://HOST:PORT/metrics, for all workers; 0: any "
            "free one; default: no metrics are served",
            at_least=0,
            at_most=65535,
        ),
    ] = None
    metrics_host: Annotated[
        str, Option("address that the metrics port listens on; 0.0.0.0: every interface")
    ] = "127.0.0.1"
    tracing: Annotated[
        bool,
        Option(
            "send a trace of each call by OpenTelemetry, as its OTEL_ variables say; needs "
            "polyhead[otel]"
        ),
    ] = False

    @property
    def worker_limits(self) -> WorkerLimits:
        """When workers are replaced, and when they are killed."""
        return WorkerLimits(silent_s=self.worker_timeout_s)

    @property
    def max_stop_s(self) -> float:
        """Seconds within which a worker must have stopped."""
        return self.drain_delay_s + self.grace_s + self.worker_limits.stop_s
