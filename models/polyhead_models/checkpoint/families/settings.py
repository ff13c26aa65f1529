"""Rules for the family tables, which read values of config.json by key, type and default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from polyhead_models.checkpoint.files import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONFIG_FILE",
    "REQUIRED",
    "Rule",
    "Settings",
    "always",
    "flag",
    "integer",
    "layer_number",
    "number",
]

CONFIG_FILE = "config.json"
REQUIRED: Final[Any] = object()
"""As a default: the key is required. As a replacement for null: null is an error."""

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The object in a checkpoint's config.json, or a nested one."""

    values: Mapping[str, Any]
    """Keys and values of the object."""
    path: str = ""
    """Path of the object in config.json, such as ``text_config.``; empty: the top level."""

    def get(self, key: str, expected: type[T], default: T = REQUIRED, null: T = REQUIRED) -> T:
        """Read a value of exactly this type; an int is accepted for a float.

        ``default`` replaces a missing key, ``null`` replaces a value of null. Raises
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
        # not isinstance, because a bool is an int in Python and must not pass for one here
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

    def positive(self, key: str, default: float = REQUIRED, null: float = REQUIRED) -> float:
        """Read a number above 0; default and null may be others."""
        value = self.get(key, float, default, null)
        if not value > 0 and self.values.get(key) is not None:
            raise self.error(key, "it must be above 0")
        return value

    def inner(self, key: str) -> Settings:
        """Return a nested object, or an empty one if the key is missing."""
        return Settings(self.get(key, dict, {}, {}), f"{self.path}{key}.")

    def part(self, keys: tuple[str, ...]) -> Settings:
        """Return the first nested object that exists, or an empty one; without keys, itself."""
        existing = [key for key in keys if self.values.get(key) is not None] or keys[-1:]
        return self.inner(existing[0]) if existing else self

    def with_aliases(self, aliases: Mapping[str, str]) -> Settings:
        """Return the settings with the values of aliases under their proper names.

        Raises CheckpointError if both names are present and their values differ.
        """
        values = dict(self.values)
        for alias, key in aliases.items():
            if alias in values and values.setdefault(key, values[alias]) != values[alias]:
                raise self.error(
                    alias, f"it is another name of {key}, which is {values[key]!r}; remove one"
                )
        return replace(self, values=values)

    def error(self, key: str, expected: str) -> CheckpointError:
        """Make the error for a key's value; ``expected`` ends its message."""
        return CheckpointError(
            f"{CONFIG_FILE}: {self.path}{key} is {self.values[key]!r}; {expected}"
        )


Rule: TypeAlias = Callable[[Settings, int], T]
"""Computes one property of an attention block from config.json and the layer's number."""


def always(value: T) -> Rule[T]:
    """Make a rule that returns ``value``, independently of config.json."""
    return lambda _settings, _layer: value


def layer_number(_settings: Settings, layer: int) -> str:
    """Return the layer's number as text: the rule of a layer with weights of its own."""
    return str(layer)


def integer(
    key: str, default: int = REQUIRED, *, null: int = REQUIRED, minimum: int = 1
) -> Rule[int]:
    """Make a rule for an integer of at least ``minimum``."""
    return lambda settings, _layer: settings.count(key, default, null, minimum)


def number(key: str, default: float = REQUIRED, *, null: float = REQUIRED) -> Rule[float]:
    """Make a rule for a number above 0."""
    return lambda settings, _layer: settings.positive(key, default, null)


def flag(key: str, *, default: bool, is_negated: bool = False) -> Rule[bool]:
    """Make a rule for a bool; null means the default. ``is_negated`` inverts the value."""
    return lambda settings, _layer: settings.get(key, bool, default, default) is not is_negated
