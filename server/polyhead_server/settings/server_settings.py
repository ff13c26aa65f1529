"""The settings of a server: the groups of `polyhead serve --help`, read from flags and environment.

The field `max_queue_size` becomes the flag `--max-queue-size` of `polyhead serve`. If the flag is
absent, POLYHEAD_MAX_QUEUE_SIZE is read. No other file reads the environment.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, BooleanOptionalAction
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from polyhead_server.errors import StartupError
from polyhead_server.limits import (
    InlineLimits,
    LogLimits,
    MetricsLimits,
    RenewalLimits,
    StreamLimits,
)
from polyhead_server.settings.limit_settings import LimitSettings
from polyhead_server.settings.model_settings import ModelSettings
from polyhead_server.settings.network_settings import NetworkSettings
from polyhead_server.settings.operation_settings import OperationSettings
from polyhead_server.settings.option import (
    PREFIX,
    UNITS,
    Option,
    flag_of,
    format_default,
    variable_of,
)
from polyhead_server.settings.resource_settings import ResourceSettings

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Mapping

__all__ = ["ServerSettings"]

_GROUPS = {
    "models": ModelSettings,
    "network": NetworkSettings,
    "resources": ResourceSettings,
    "limits": LimitSettings,
    "operation": OperationSettings,
}
"""By the titles of the groups of flags, in the order of `polyhead serve --help`."""
_MEMORY_PARTS = {
    "max_queue_bytes": 8,
    "max_request_bytes": 32,
    "max_response_bytes": 16,
    "max_scores_bytes": 64,
}
"""Which part of the memory a limit is at most: gRPC lets in twice a request, streams share as much
as the queue again, a response takes up to 4.3 times its size, and a score matrix 5 times."""
_SIMILARITY = 0.8
"""From which ratio of difflib on a name is taken for a misspelt one."""
_SERVICE_LINK = (
    "; Kubernetes sets it so in pods beside a Service of that name: write "
    "enableServiceLinks: false in the pod's spec"
)
"""Beside a Service named polyhead, POLYHEAD_PORT is tcp://10.0.0.1:50051."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings(
    ModelSettings, NetworkSettings, ResourceSettings, LimitSettings, OperationSettings
):
    """The server's settings. Raises StartupError for invalid values."""

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

    def __post_init__(self) -> None:
        for _, name, _, option in _settings():
            option.check(flag_of(name), getattr(self, name))
        self.parsed_provider_options()
        self._check_host()
        self.check_tls()
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

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare a flag for every setting, in groups."""
        parser.usage = "%(prog)s [FLAG ...]"
        groups = {title: parser.add_argument_group(title) for title in _GROUPS}
        for title, name, kind, option in _settings():
            note, default = variable_of(name), getattr(cls, name)
            if default not in (None, ""):
                note += f", default: {format_default(default)}"
            action: dict[str, Any] = {"type": option.parser_of(kind)}
            if kind is bool:
                action = {"action": BooleanOptionalAction}
            elif option.choices:
                action["choices"] = option.choices
            # no default here, because an absent flag must not hide the environment's value
            groups[title].add_argument(
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
        for _, name, kind, option in _settings():
            value, variable = getattr(arguments, name, None), variable_of(name)
            if value is None and (text := environment.get(variable)):
                try:
                    value = option.parser_of(kind)(text)
                except ArgumentTypeError as error:
                    hint = _SERVICE_LINK if text.startswith(("tcp://", "udp://")) else ""
                    raise StartupError(f"{variable}: {error}{hint}") from error
                option.check(variable, value)
            if value is not None:
                values[name] = value
        if available_bytes is not None:
            values = _fitted_to_memory(values, available_bytes)
        return cls(**values)

    @staticmethod
    def misspelt_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the variables of no setting whose names resemble that of one, with that name."""
        known = [variable_of(name) for _, name, _, _ in _settings()]
        names = [name for name in environment if name.startswith(PREFIX) and name not in known]
        suffixes = {name.removeprefix(PREFIX): name for name in known}
        similar = {
            name: get_close_matches(name.removeprefix(PREFIX), suffixes, 1, _SIMILARITY)
            for name in names
        }
        return {name: suffixes[match] for name, matches in similar.items() for match in matches}


def _fitted_to_memory(values: dict[str, Any], available_bytes: int) -> dict[str, Any]:
    """Return settings, with limits of memory that are not set already."""
    share = available_bytes // values.get("workers", ServerSettings.workers)
    memory = values.get("max_memory_bytes") or share
    fitted = {
        name: max(UNITS["MiB"], min(getattr(ServerSettings, name), memory // part))
        for name, part in _MEMORY_PARTS.items()
    }
    return fitted | values | {"max_memory_bytes": memory}


def _settings() -> Iterator[tuple[str, str, type, Option]]:
    """Yield the group's title, the name, the type and the option of each setting with a flag."""
    for title, group in _GROUPS.items():
        for name, hint in get_type_hints(group, include_extras=True).items():
            if get_origin(hint) is Annotated:
                kind, option = get_args(hint)
                # of a setting that may be left out, such as int | None, the type that it has if not
                yield title, name, get_args(kind)[0] if get_origin(kind) else kind, option
