"""Makes dataclasses from untrusted JSON; every key and every type is checked."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["read_object"]

T = TypeVar("T")


def read_object(cls: type[T], text: str, error_type: type[ValueError], *, max_integer: int) -> T:
    """Make a dataclass from a JSON object with its fields.

    Fields may be bool, int, float, str, dataclasses, dataclasses or None, and tuples of these.
    Raises ``error_type`` if the text is anything else, if an integer's absolute value is above
    ``max_integer``, or if the dataclass itself raises ValueError.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise error_type(f"{cls.__name__}: not JSON") from error
    try:
        return _make(cls, values, max_integer)
    except ValueError as error:
        raise error_type(str(error)) from error


def _make(cls: type[T], values: object, max_integer: int) -> T:
    types, required = _fields(cls)  # type: ignore[arg-type]  # a class is hashable
    if not isinstance(values, dict) or not required <= values.keys() <= types.keys():
        raise ValueError(f"{cls.__name__}: expected an object with the keys {sorted(types)}")
    return cls(
        **{
            name: _checked(f"{cls.__name__}: {name}", value, types[name], max_integer)
            for name, value in values.items()
        }
    )


@cache
def _fields(cls: type[Any]) -> tuple[dict[str, Any], set[str]]:
    """Return the types of a dataclass's fields by their names, and the names of required ones."""
    required = {f.name for f in fields(cls) if f.default is MISSING}
    return get_type_hints(cls), required


def _checked(name: str, value: object, expected: Any, max_integer: int) -> object:  # noqa: ANN401 - a type
    if get_origin(expected) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name} is of the wrong type; expected a list")
        item_type = get_args(expected)[0]
        return tuple(_checked(name, item, item_type, max_integer) for item in value)
    for part in get_args(expected) or (expected,):
        if isinstance(part, type) and is_dataclass(part):
            is_missing = value is None and type(None) in get_args(expected)
            return None if is_missing else _make(part, value, max_integer)
    accepted = (int, float) if expected is float else (expected,)
    # not isinstance, because a bool is an int in Python and must not pass for one here
    if type(value) not in accepted:
        raise ValueError(f"{name} is {value!r}, of the wrong type")
    if isinstance(value, int) and abs(value) > max_integer:
        raise ValueError(f"{name} is larger than {max_integer}")
    return value
