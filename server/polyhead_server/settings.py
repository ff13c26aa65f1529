"""Every setting of the server, with its flag, environment variable and check.

The field `max_queue_size` becomes the flag `--max-queue-size` of `polyhead serve`. If the flag is
absent, POLYHEAD_MAX_QUEUE_SIZE is read. No other file reads the environment.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, BooleanOptionalAction
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - get_type_hints needs it
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from polyhead_server.errors import StartupError
from polyhead_server.limits import (
    InlineLimits,
    LoadLimits,
    LogLimits,
    MetricsLimits,
    PeerLimits,
    RenewalLimits,
    StreamLimits,
    WorkerLimits,
)
from polyhead_server.setting_option import UNITS, Option, flag_of, format_default, variable_of

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

__all__ = ["ServerSettings"]

_MEMORY_PARTS = {
    "max_queue_bytes": 8,
    "max_request_bytes": 32,
    "max_response_bytes": 16,
    "max_scores_bytes": 64,
}
"""Which part of the memory a limit is at most: gRPC lets in twice a request, streams share as much
as the queue again, a response takes up to 4.3 times its size, and a score matrix 5 times."""


_GROUPS = {
    "models": "models",
    "host": "network",
    "provider": "resources",
    "max_queue_size": "limits",
    "reflection": "operation",
}
"""Where each group of flags begins in `polyhead serve --help`, and its title."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The server's settings. Raises StartupError for invalid values."""

    models: Annotated[
        Path | None,
        Option("model repository, NAME/VERSION/model.onnx; default: the built-in river-bank"),
    ] = None
    versions: Annotated[
        str, Option("which versions of each model to load", choices=("latest", "all"))
    ] = "latest"
    watch: Annotated[
        bool,
        Option(
            "look at the repository's files every two seconds, and load what has changed; SIGHUP "
            "does so once"
        ),
    ] = False
    load_timeout_s: Annotated[
        float,
        Option(
            "seconds that loading one version of a model may take; a slower one is given up, and "
            "others are served",
            at_least=0.1,
            at_most=86_400,
        ),
    ] = 120.0
    model_control: Annotated[
        str,
        Option(
            "whether callers may change which models are served; reload: as `polyhead models "
            "reload` does; explicit: also by RepositoryModelLoad and RepositoryModelUnload, with "
            "one worker only",
            choices=("none", "reload", "explicit"),
        ),
    ] = "none"
    host: Annotated[
        str,
        Option(
            "address to listen on; 0.0.0.0: every interface; unix:PATH: a socket of this machine, "
            "without a port, for one worker"
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, Option("port to listen on; 0: any free one", at_least=0, at_most=65535)
    ] = 50051
    tls_cert: Annotated[
        Path | None,
        Option(
            "PEM file of the server's certificate and those that lead to its authority: the port "
            "then speaks TLS 1.2 or 1.3; renewed while serving when the file changes"
        ),
    ] = None
    tls_key: Annotated[Path | None, Option("PEM file of the certificate's private key")] = None
    tls_client_ca: Annotated[
        Path | None,
        Option(
            "PEM file of authorities: every client must then show a certificate that one of them "
            "has signed"
        ),
    ] = None
    tokens_file: Annotated[
        Path | None,
        Option(
            "file of lines that `polyhead token new` prints: every call but health checks then "
            "needs a token, and reflection and model control one with the role admin; read again "
            "when it changes"
        ),
    ] = None
    provider: Annotated[
        str,
        Option(
            "where models run; cuda fails without a GPU, auto falls back to cpu and says so",
            choices=("auto", "cpu", "cuda"),
        ),
    ] = "auto"
    provider_options: Annotated[
        str, Option("ONNX Runtime's options for cuda, such as device_id=1,gpu_mem_limit=2147483648")
    ] = ""
    workers: Annotated[
        int,
        Option(
            "processes that serve the port, each with its own models, queue and limits",
            at_least=1,
            at_most=256,
        ),
    ] = 1
    threads: Annotated[
        int,
        Option(
            "threads of one run, in a pool of each model; fewer if the pools of many models would "
            "have more than 128 together; with --spinning on, in one pool for all models; 0: the "
            "CPUs that this process may use, divided by --workers",
            at_least=0,
            at_most=1024,
        ),
    ] = 0
    spinning: Annotated[
        bool,
        Option("let idle threads spin for some 50 ms: lower latency if there are CPUs to spare"),
    ] = False
    max_concurrent_runs: Annotated[
        int,
        Option(
            "runs at once in each worker, each with --threads threads; very small ones do not "
            "count, and short ones do not wait for long ones",
            at_least=1,
            at_most=1024,
        ),
    ] = 1
    max_queue_size: Annotated[
        int,
        Option(
            "requests that may wait for their run in each worker; more are refused",
            at_least=0,
            at_most=1_000_000,
        ),
    ] = 256
    max_queue_bytes: Annotated[
        int,
        Option(
            "bytes that each worker holds at once: requests that wait or run, and the blocks and "
            "projections of AttendRows; more are refused. AttendStreams share as much again",
            at_least=1024,
            at_most=2**63 - 1,
        ),
    ] = 1 * UNITS["GiB"]
    max_batch_tokens: Annotated[
        int,
        Option(
            "most tokens in a batch of requests of one shape; 0: the provider's default (cpu: 256)",
            at_least=0,
            at_most=2**31 - 1,
        ),
    ] = 0
    solo_above_tokens: Annotated[
        int,
        Option(
            "requests of more tokens run alone, because batching does not make them faster; 0: the "
            "provider's default (cpu: 16)",
            at_least=0,
            at_most=2**31 - 1,
        ),
    ] = 0
    max_queue_delay_ms: Annotated[
        float,
        Option(
            "milliseconds that a request may wait for a fuller batch; 0: only for a free slot",
            at_least=0,
            at_most=60_000,
        ),
    ] = 0.0
    max_request_bytes: Annotated[
        int, Option("largest request message", at_least=1024, at_most=2**30)
    ] = 128 * UNITS["MiB"]
    max_text_characters: Annotated[
        int,
        Option(
            "characters of a text that are made tokens, which takes a second a million and cannot "
            "be interrupted; a longer text is refused unless the model needs only its beginning",
            at_least=1,
            at_most=2**30,
        ),
    ] = 1 << 18
    max_response_bytes: Annotated[
        int, Option("largest response message", at_least=1024, at_most=2**31 - 1)
    ] = 256 * UNITS["MiB"]
    max_scores_bytes: Annotated[
        int,
        Option(
            "largest score matrix in one run; larger ones are computed in blocks, and only one "
            "row, num_heads x kv_seq_len x 4 bytes, must fit",
            at_least=1024,
            at_most=2**63 - 1,
        ),
    ] = 64 * UNITS["MiB"]
    max_memory_bytes: Annotated[
        int,
        Option(
            "memory that each worker may use; from three quarters on, calls whose requests are "
            "still arriving are cut. The four limits above are lower by default where memory is "
            "scarce. 0: what the container or the machine has, divided by --workers",
            at_least=0,
            at_most=2**63 - 1,
        ),
    ] = 0
    max_connections: Annotated[
        int,
        Option(
            "connections that each worker has at once; further ones are closed",
            at_least=1,
            at_most=2**31 - 1,
        ),
    ] = 1000
    max_concurrent_streams: Annotated[
        int,
        Option(
            "calls that a client may have at once on one connection; it lets further ones wait",
            at_least=1,
            at_most=2**31 - 1,
        ),
    ] = 100
    max_open_calls: Annotated[
        int,
        Option(
            "calls that each worker has at once, of all connections and methods; more are refused",
            at_least=1,
            at_most=2**31 - 1,
        ),
    ] = 4000
    max_peer_share: Annotated[
        float,
        Option(
            "largest share of --max-open-calls and --max-queue-bytes that one address may have, so "
            "that it leaves something to others; 1 behind a proxy that all callers come through",
            at_least=0.001,
            at_most=1,
        ),
    ] = 0.5
    receive_timeout_s: Annotated[
        float,
        Option(
            "seconds from the begin of a call within which its request must have arrived",
            at_least=0.1,
            at_most=86_400,
        ),
    ] = 60.0
    write_timeout_s: Annotated[
        float,
        Option(
            "seconds within which a client must take a message, and one more for each 100 kB; a "
            "call whose client takes longer is cut",
            at_least=0.1,
            at_most=86_400,
        ),
    ] = 60.0
    allow_non_finite: Annotated[bool, Option("accept NaN and infinity in query, key and value")] = (
        False
    )
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
    inline_limits: InlineLimits = field(default_factory=InlineLimits)
    """Has no flag."""
    stream_limits: StreamLimits = field(default_factory=StreamLimits)
    """Has no flag."""
    renewal_limits: RenewalLimits = field(default_factory=RenewalLimits)
    """Has no flag."""
    log_limits: LogLimits = field(default_factory=LogLimits)
    """Has no flag."""
    metrics_limits: MetricsLimits = field(default_factory=MetricsLimits)
    """Has no flag."""

    @property
    def worker_limits(self) -> WorkerLimits:
        """When workers are replaced, and when they are killed."""
        return WorkerLimits(silent_s=self.worker_timeout_s)

    @property
    def max_stop_s(self) -> float:
        """Seconds within which a worker must have stopped."""
        return self.drain_delay_s + self.grace_s + self.worker_limits.stop_s

    @property
    def load_limits(self) -> LoadLimits:
        """Limits of loading models."""
        return LoadLimits(timeout_s=self.load_timeout_s, max_check_s=self.load_timeout_s)

    def __post_init__(self) -> None:
        for name, (_, option) in _settings().items():
            option.check(flag_of(name), getattr(self, name))
        self.parsed_provider_options()
        self._check_host()
        self._check_tls()
        if self.model_control == "explicit" and self.workers > 1:
            raise StartupError(
                f"--model-control explicit with --workers {self.workers}: a call reaches one "
                "worker only, and the others would serve other models; choose --workers 1"
            )

    def _check_host(self) -> None:
        if not self.host.startswith("unix:"):
            return
        if self.host == "unix:":
            raise StartupError("--host is unix:; expected unix:PATH, such as unix:/run/polyhead")
        if self.workers > 1:
            raise StartupError(
                f"--workers {self.workers} with --host {self.host}: several processes share ports "
                "only; choose --workers 1, or a --host of a network"
            )

    def _check_tls(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise StartupError("--tls-cert and --tls-key belong together: give both, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise StartupError(
                "--tls-client-ca needs --tls-cert and --tls-key: without them the port speaks no "
                "TLS, and no client shows a certificate"
            )

    @property
    def peer_limits(self) -> PeerLimits:
        """Limits of what each peer may have, and may let wait."""
        return PeerLimits(
            receive_timeout_s=self.receive_timeout_s,
            write_timeout_s=self.write_timeout_s,
            max_calls=self.max_open_calls,
            max_share=self.max_peer_share,
        )

    def parsed_provider_options(self) -> dict[str, str]:
        """Split provider_options into names and values. Raises StartupError."""
        options = {}
        for pair in filter(str.strip, self.provider_options.split(",")):
            name, _, value = (part.strip() for part in pair.partition("="))
            if not (name and value):
                raise StartupError(
                    f"--provider-options is {self.provider_options!r}; "
                    "expected NAME=VALUE,NAME=VALUE, such as device_id=1"
                )
            options[name] = value
        return options

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare a flag for every setting, in groups."""
        parser.usage = "%(prog)s [FLAG ...]"
        group = parser.add_argument_group()
        for name, (kind, option) in _settings().items():
            if name in _GROUPS:
                group = parser.add_argument_group(_GROUPS[name])
            note, default = variable_of(name), getattr(cls, name)
            if default not in (None, ""):
                note += f", default: {format_default(default)}"
            action: dict[str, Any] = {"type": option.parser_of(kind)}
            if kind is bool:
                action = {"action": BooleanOptionalAction}
            elif option.choices:
                action["choices"] = option.choices
            # no default here, because an absent flag must not hide the environment's value
            group.add_argument(
                flag_of(name), default=None, help=f"{option.help} [{note}]", **action
            )

    @classmethod
    def from_arguments(
        cls,
        arguments: Namespace,
        environment: Mapping[str, str] = os.environ,
        available_bytes: int | None = None,
    ) -> ServerSettings:
        """Read each setting from its flag, its non-empty environment variable, or its default.

        ``available_bytes``: the memory of the container or the machine, which the limits of memory
        that are not set follow.
        Raises StartupError for an invalid value, naming the flag or the variable.
        """
        values: dict[str, Any] = {}
        for name, (kind, option) in _settings().items():
            value, variable = getattr(arguments, name, None), variable_of(name)
            if value is None and (text := environment.get(variable)):
                try:
                    value = option.parser_of(kind)(text)
                except ArgumentTypeError as error:
                    raise StartupError(f"{variable}: {error}") from error
                option.check(variable, value)
            if value is not None:
                values[name] = value
        if available_bytes is not None:
            values = _fitted_to_memory(values, available_bytes)
        return cls(**values)


def _fitted_to_memory(values: dict[str, Any], available_bytes: int) -> dict[str, Any]:
    """Return settings, with limits of memory that are not set already."""
    share = available_bytes // values.get("workers", ServerSettings.workers)
    memory = values.get("max_memory_bytes") or share
    fitted = {
        name: max(UNITS["MiB"], min(getattr(ServerSettings, name), memory // part))
        for name, part in _MEMORY_PARTS.items()
    }
    return fitted | values | {"max_memory_bytes": memory}


def _settings() -> dict[str, tuple[type, Option]]:
    """Return type and option of each setting that has a flag, by name."""
    settings = {}
    for name, hint in get_type_hints(ServerSettings, include_extras=True).items():
        if get_origin(hint) is Annotated:
            kind, option = get_args(hint)
            # of a setting that may be left out, such as int | None, the type that it has if not
            settings[name] = (get_args(kind)[0] if get_origin(kind) else kind, option)
    return settings
