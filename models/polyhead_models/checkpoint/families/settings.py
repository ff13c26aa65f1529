"""Reads config.json by rules that tables can hold: which key, which type, which default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from polyhead_models.checkpoint.files import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CONFIG_FILE", "REQUIRED", "Rule", "Settings", "always", "flag", "integer", "number"]

CONFIG_FILE = "config.json"
REQUIRED: Final[Any] = object()
"""As a default: the key must be present. As a meaning of null: null is an error."""

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The object in a checkpoint's config.json, or one of the objects inside it."""

    values: Mapping[str, Any]
    """What it holds."""
    path: str = ""
    """Where it lies in config.json, such as ``text_config.``; empty: it is the whole of it."""

    def get(self, key: str, expected: type[T], default: T = REQUIRED, null: T = REQUIRED) -> T:
        """Read a value of exactly this type; an int will do for a float.

        ``default`` is for a key that is not there, ``null`` for one whose value is null. Raises
        CheckpointError.
        """
        if key not in self.values:
            if default is REQUIRED:
                raise CheckpointError(
                    f"{CONFIG_FILE} has no {self.path}{key}; expected a value ({expected.__name__})"
                )
            return default
        value = self.values[key]
        if value is None and null is not REQUIRED:
            return null
        # not isinstance: a bool is an int in Python, and never one here
        if expected is float and type(value) is int and abs(value) < 2**63:
            value = float(value)
        if type(value) is not expected:
            raise self.error(key, f"expected {expected.__name__}")
        checked: T = value
        return checked

    def count(
        self, key: str, default: int = REQUIRED, null: int = REQUIRED, minimum: int = 1
    ) -> int:
        """Read an integer of at least ``minimum``; default and null may be smaller."""
        number = self.get(key, int, default, null)
        if number < minimum and self.values.get(key) is not None:
            raise self.error(key, f"it must be at least {minimum}")
        return number

    def inner(self, key: str) -> Settings:
        """Give an object inside this one; an empty one if there is none."""
        return Settings(self.get(key, dict, {}, {}), f"{self.path}{key}.")

    def error(self, key: str, expected: str) -> CheckpointError:
        """Make the exception that says what a key's value is, and what was expected of it."""
        return CheckpointError(
            f"{CONFIG_FILE}: {self.path}{key} is {self.values[key]!r}; {expected}"
        )


Rule: TypeAlias = Callable[[Settings, int], T]
"""Gives one fact about an attention block, from config.json and the layer's number."""


def always(value: T) -> Rule[T]:
    """Give a rule for what no key of config.json changes."""
    return lambda _settings, _layer: value


def integer(
    key: str, default: int = REQUIRED, *, null: int = REQUIRED, minimum: int = 1, old_key: str = ""
) -> Rule[int]:
    """Give a rule for an integer of at least ``minimum``; ``old_key``: its key in older files."""
    return lambda settings, _layer: settings.count(
        old_key if old_key and old_key in settings.values else key, default, null, minimum
    )


def number(key: str, default: float = REQUIRED, *, null: float = REQUIRED) -> Rule[float]:
    """Give a rule for a number above 0."""

    def read(settings: Settings, _layer: int) -> float:
        value = settings.get(key, float, default, null)
        if not value > 0 and settings.values.get(key) is not None:
            raise settings.error(key, "it must be above 0")
        return value

    return read


def flag(key: str, *, default: bool, is_negated: bool = False) -> Rule[bool]:
    """Give a rule for what is true or false; null is the default. ``is_negated`` turns it round."""
    return lambda settings, _layer: settings.get(key, bool, default, default) is not is_negated
