"""The client's own view of arguments: what cannot be right is refused before anything is sent.

What only the server knows, such as a model's widths and number of heads, is left to the server.
Every function here, and in _array_arguments.py and _weights_arguments.py, raises
InvalidArgumentError: its message has the argument's name, expected and got; its code, reason and
path of the field are those with which the server answers where the same fault can be sent to it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np

from polyhead.errors import InvalidArgumentError
from polyhead.wire.tensors import FLOAT_NAMES, TensorError, parse_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike

    from polyhead.v1.attention_pb2 import DataType

__all__ = [
    "bad_value",
    "checked_count",
    "checked_float_dtype",
    "checked_positive",
    "checked_request_id",
    "checked_switch",
    "checked_text",
    "checked_version",
    "invalid",
    "prefix_field_path",
]

MAX_REQUEST_ID_BYTES = 256
_MAX_COUNT = 2**31 - 1  # the contract's int32
_MAX_VERSION = 2**63 - 1  # the contract's int64


def checked_float_dtype(name: str, dtype: DTypeLike, field: str = "") -> DataType.ValueType:
    """Give the element type that arrays of the result are to have."""
    try:
        return parse_dtype(dtype, FLOAT_NAMES)
    except TensorError as error:
        raise invalid(name, error.message, field or name, error.reason) from None


def checked_text(name: str, value: object) -> str:
    """Give a str that UTF-8 can carry, not empty."""
    if not (isinstance(value, str) and value):
        is_missing = value is None or isinstance(value, str)
        reason = "REQUIRED" if is_missing else "INVALID_VALUE"
        raise invalid(name, f"expected a str that is not empty; got {value!r}", name, reason)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad_value(name, f"expected text; {value!r} has lone surrogates") from None
    return value


def checked_request_id(value: object) -> str:
    """Give a request's id, which the contract bounds; None becomes empty."""
    if value is None:
        return ""
    text = checked_text("request_id", value)
    if (size := len(text.encode())) > MAX_REQUEST_ID_BYTES:
        raise bad_value(
            "request_id", f"expected at most {MAX_REQUEST_ID_BYTES} bytes of UTF-8; got {size}"
        )
    return text


def checked_version(value: object, field: str) -> int:
    """Give a model's version; None becomes 0, which is the newest."""
    return checked_count("version", value, "the newest", field, most=_MAX_VERSION)


def checked_count(
    name: str, value: object, none: str, field: str = "", *, most: int = _MAX_COUNT
) -> int:
    """Give how many; None becomes 0, the contract's default, which ``none`` describes."""
    if value is None:
        return 0
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_whole and 1 <= cast("int", value) <= most:
        return int(cast("int", value))
    message = f"expected a whole number from 1 to {most}, or None for {none}; got {value!r}"
    raise invalid(name, message, field or name, "OUT_OF_RANGE" if is_whole else "INVALID_VALUE")


def checked_positive(name: str, value: object) -> int:
    """Give how many, 1 or more."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise bad_value(name, f"expected a whole number from 1; got {value!r}")
    return int(value)


def checked_switch(name: str, value: object, field: str = "") -> bool:
    """Give True or False: numbers and words are refused, for "no" would be true."""
    if not isinstance(value, bool | np.bool_):
        raise bad_value(name, f"expected True or False; got {value!r}", field)
    return bool(value)


def bad_value(name: str, message: str, field: str = "") -> InvalidArgumentError:
    """Make the error of a value that is none of those expected."""
    return invalid(name, message, field or name, "INVALID_VALUE")


def invalid(argument: str, message: str, field: str, reason: str) -> InvalidArgumentError:
    """Name the argument as the caller wrote it, and the field as the contract calls it."""
    text = f"{argument}: {message}"
    return InvalidArgumentError(text, code="INVALID_ARGUMENT", reason=reason, fields={field: text})


@contextmanager
def prefix_field_path(field: str) -> Iterator[None]:
    """Prefix the paths of errors in a message that is the field of another."""
    try:
        yield
    except InvalidArgumentError as error:
        error.fields = {f"{field}.{path}": text for path, text in error.fields.items()}
        raise
