"""The options of settings: their help, their valid values, and their form as text."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyhead_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PREFIX", "UNITS", "Option", "flag_of", "format_default", "variable_of"]

PREFIX = "POLYHEAD_"
"""Of the environment variables of settings."""
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_BOOLS = {"1": True, "true": True, "yes": True, "on": True}
_BOOLS |= {"0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Option:
    """The meaning of a setting, and its valid values."""

    help: str
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    reader: Callable[[str], Any] | None = None
    """Parses the value from text, if its type does not determine how."""

    def check(self, name: str, value: Any) -> None:  # noqa: ANN401 - any setting's value
        """Raise StartupError for a value that is not valid; None stands for a missing one."""
        if value is None:
            return
        if self.choices and value not in self.choices:
            expected = ", ".join(self.choices)
            raise StartupError(f"{name} is {value!r}; expected one of {expected}")
        if self.at_least is not None and not value >= self.at_least:
            raise StartupError(f"{name} is {value}; it must be at least {self.at_least}")
        if self.at_most is not None and not value <= self.at_most:
            raise StartupError(f"{name} is {value}; it must be at most {self.at_most}")

    def parser_of(self, kind: type) -> Callable[[str], Any]:
        """Return the parser of a setting of this type."""
        if self.reader:
            return self.reader
        if self.choices:
            return lambda text: text.lower() if text.lower() in self.choices else text
        readers: dict[type, Callable[[str], Any]] = {
            bool: _read_bool,
            int: _read_int,
            float: _read_float,
        }
        return readers.get(kind, kind)


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def format_default(default: object) -> str:
    """Write a default as users write it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    for unit, size in reversed(UNITS.items()):
        if isinstance(default, int) and default and default % size == 0:
            return f"{default // size}{unit}"
    return str(default)


def _read_int(text: str) -> int:
    number, factor = text, 1
    for unit, size in UNITS.items():
        if text.endswith(unit):
            number, factor = text.removesuffix(unit), size
    try:
        return int(number) * factor
    except ValueError:
        raise ArgumentTypeError(
            f"expected a whole number such as 8, and of bytes also such as 64MiB; got {text!r}"
        ) from None


def _read_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a number such as 2.5; got {text!r}") from None


def _read_bool(text: str) -> bool:
    try:
        return _BOOLS[text.lower()]
    except KeyError:
        raise ArgumentTypeError(f"expected 1 or 0; got {text!r}") from None
