"""Dataclasses from JSON that anybody may have written: every key and every type is checked."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

__all__ = ["read_object"]

T = TypeVar("T")


def read_object(cls: type[T], text: str, fail: type[ValueError], *, largest: int) -> T:
    """Make a dataclass of a JSON object with its fields.

    Fields may be bool, int, float, str, tuples of floats, and dataclasses or None. Raises ``fail``
    if the text is anything else, if an integer is larger than ``largest`` either way, or if the
    dataclass raises a ValueError of its own.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fail(f"{cls.__name__}: not JSON") from error
    try:
        return _made(cls, values, largest)
    except ValueError as error:
        raise fail(str(error)) from error


def _made(cls: type[T], values: object, largest: int) -> T:
    types = get_type_hints(cls)
    required = {f.name for f in fields(cls) if f.default is MISSING}  # type: ignore[arg-type]  # a dataclass
    if not isinstance(values, dict) or not required <= values.keys() <= types.keys():
        raise ValueError(f"{cls.__name__}: expected an object with the keys {sorted(types)}")
    return cls(
        **{
            name: _typed(f"{cls.__name__}: {name}", value, types[name], largest)
            for name, value in values.items()
        }
    )


def _typed(name: str, value: object, expected: Any, largest: int) -> object:  # noqa: ANN401 - a type
    for part in get_args(expected):
        if isinstance(part, type) and is_dataclass(part):
            return None if value is None else _made(part, value, largest)
    if expected == tuple[float, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{name} is of the wrong type; expected numbers")
        return tuple(_typed(name, item, float, largest) for item in value)
    accepted = (int, float) if expected is float else (expected,)
    # bool is an int in Python, and never one here
    if type(value) not in accepted:
        raise ValueError(f"{name} is {value!r}, of the wrong type")
    if isinstance(value, int) and abs(value) > largest:
        raise ValueError(f"{name} is larger than {largest}")
    return value
