"""Every setting of the server: its flag, its environment variable, its check.

`polyhead serve` makes flags of these fields, `--max-queue-size` of `max_queue_size`, and reads
POLYHEAD_MAX_QUEUE_SIZE where the flag is absent. This is the one file that reads the environment.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, BooleanOptionalAction
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from polyhead_server.errors import StartupError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Mapping

__all__ = ["ServerSettings"]

_MIB = 1 << 20
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _setting(
    default: object, help_text: str, *, at_least: float | None = None, **extra: Any
) -> Any:  # noqa: ANN401 - a dataclass field of any type
    metadata = {"help": help_text, "at_least": at_least, **extra}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How to serve. Raises StartupError when made with values that cannot be served."""

    models: Path | None = _setting(
        None, "model repository, <name>/<version>/model.onnx; without it: the built-in river-bank"
    )
    versions: str = _setting(
        "latest", "which versions of each model to load", choices=("latest", "all")
    )
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for every interface")
    port: int = _setting(50051, "port to listen on; 0 for any free one", at_least=0, at_most=65535)
    provider: str = _setting(
        "auto",
        "what to run on: cuda fails without a GPU, auto falls back to cpu and says so",
        choices=("auto", "cpu", "cuda"),
    )
    provider_options: str = _setting(
        "", "ONNX Runtime's options for the provider: gpu_mem_limit=2147483648,device_id=1"
    )
    threads: int = _setting(
        0, "threads one run may use; 0: the CPUs this process may use", at_least=0
    )
    spinning: bool = _setting(
        default=False,
        help_text="let idle threads spin: lower latency on machines with CPUs to spare",
    )
    max_concurrent_runs: int = _setting(
        1, "runs at once; each uses --threads threads (small requests run besides)", at_least=1
    )
    max_queue_size: int = _setting(
        256, "requests that may wait for their run; more are refused", at_least=0
    )
    max_request_bytes: int = _setting(128 * _MIB, "largest request message", at_least=1024)
    max_response_bytes: int = _setting(256 * _MIB, "largest response message", at_least=1024)
    max_scores_bytes: int = _setting(
        1024 * _MIB,
        "largest matrix of attention scores a request for weights or with a mask may need",
        at_least=1024,
    )
    allow_non_finite: bool = _setting(
        default=False, help_text="accept NaN and infinity in query, key and value"
    )
    reflection: bool = _setting(
        default=True, help_text="let clients such as grpcurl discover the services"
    )
    drain_delay_s: float = _setting(
        0.0, "on SIGTERM: seconds to report NOT_SERVING before draining", at_least=0
    )
    grace_s: float = _setting(30.0, "on SIGTERM: seconds that calls get to finish", at_least=0)
    log_format: str = _setting(
        "auto",
        "auto: text on a terminal, else one JSON line an event",
        choices=("auto", "json", "text"),
    )
    log_level: str = _setting(
        "info", "least severe events to log", choices=("debug", "info", "warning", "error")
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            _check(setting.name, getattr(self, setting.name), setting.metadata)
        self.provider_option_pairs()

    def provider_option_pairs(self) -> dict[str, str]:
        """Split provider_options into names and values."""
        pairs = [pair.partition("=") for pair in self.provider_options.split(",") if pair.strip()]
        for name, equals, value in pairs:
            if not (name.strip() and equals and value.strip()):
                raise StartupError(
                    f"--provider-options is {self.provider_options!r}; "
                    "expected NAME=VALUE,NAME=VALUE, such as device_id=1"
                )
        return {name.strip(): value.strip() for name, _, value in pairs}

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare a flag for every setting."""
        hints = get_type_hints(cls)
        for setting in fields(cls):
            described = f"{setting.metadata['help']} [{_variable(setting.name)}"
            default = setting.default
            described += "]" if default in (None, "") else f", default: {_shown(default)}]"
            kind: dict[str, Any]
            if hints[setting.name] is bool:
                kind = {"action": BooleanOptionalAction}
            else:
                kind = {"type": _parser_of(hints[setting.name]), "metavar": _metavar(setting.name)}
                if choices := setting.metadata.get("choices"):
                    kind = {"choices": choices}
            # a flag that is absent must not hide the environment's value: no default here
            parser.add_argument(
                _flag(setting.name), dest=setting.name, default=None, help=described, **kind
            )

    @classmethod
    def from_arguments(
        cls, arguments: Namespace, environment: Mapping[str, str] = os.environ
    ) -> ServerSettings:
        """Take each setting from its flag, else from its variable, else its default.

        Raises StartupError for a value that cannot be read, naming the variable.
        """
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for setting in fields(cls):
            given = getattr(arguments, setting.name, None)
            if given is None and (text := environment.get(_variable(setting.name))) is not None:
                try:
                    given = _parser_of(hints[setting.name])(text)
                except (ArgumentTypeError, ValueError) as error:
                    raise StartupError(f"{_variable(setting.name)} is {text!r}: {error}") from error
            if given is not None:
                values[setting.name] = given
        return cls(**values)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return "POLYHEAD_" + name.upper()


def _metavar(name: str) -> str:
    return name.rpartition("_")[2].upper()


def _shown(default: object) -> str:
    return {True: "on", False: "off"}[default] if isinstance(default, bool) else str(default)


def _parser_of(hint: object) -> Callable[[str], Any]:
    if hint is bool:
        return _parse_bool
    return {int: _parse_int, float: float, str: str}.get(hint, Path)  # type: ignore[call-overload, no-any-return]  # the keys are the types of the fields


def _parse_int(text: str) -> int:
    """Read a whole number, which may end in KiB, MiB or GiB."""
    for unit, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)):
        if text.endswith(unit):
            text, scale = text.removesuffix(unit), factor
            break
    else:
        scale = 1
    try:
        return int(text) * scale
    except ValueError:
        raise ArgumentTypeError("expected a whole number, such as 4096 or 64MiB") from None


def _parse_bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ArgumentTypeError("expected 1 or 0")


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:  # noqa: ANN401 - a setting of any type
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise StartupError(f"{_flag(name)} is {value!r}; expected one of {', '.join(choices)}")
    low, high = metadata["at_least"], metadata.get("at_most")
    if low is not None and not value >= low:
        raise StartupError(f"{_flag(name)} is {value}; it must be at least {low}")
    if high is not None and not value <= high:
        raise StartupError(f"{_flag(name)} is {value}; it must be at most {high}")
