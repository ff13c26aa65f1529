"""The client's own view of arguments: what cannot be right is refused before anything is sent.

What only the server knows, such as a model's widths and number of heads, is left to the server.
Every function here, and in _array_arguments.py and _weights_arguments.py, raises
InvalidArgumentError with the argument's name, expected and got.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead.errors import InvalidArgumentError
from polyhead.tensors import FLOAT_NAMES, TensorError, parse_dtype

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from polyhead.v1.attention_pb2 import DataType

__all__ = [
    "bad_value",
    "checked_count",
    "checked_float_dtype",
    "checked_request_id",
    "checked_switch",
    "checked_text",
    "checked_version",
    "invalid",
]

MAX_REQUEST_ID_BYTES = 256
_MAX_COUNT = 2**31 - 1  # the contract's int32


def checked_float_dtype(name: str, dtype: DTypeLike, field: str = "") -> DataType.ValueType:
    """Give the element type that arrays of the result are to have."""
    try:
        return parse_dtype(dtype, FLOAT_NAMES)
    except TensorError as error:
        raise bad_value(name, error.message, field) from None


def checked_text(name: str, value: object) -> str:
    """Give a str that UTF-8 can carry, not empty."""
    if not (isinstance(value, str) and value):
        raise bad_value(name, f"expected a str that is not empty; got {value!r}")
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


def checked_version(value: object) -> int:
    """Give a model's version; None becomes 0, which is the newest."""
    if value is None:
        return 0
    if isinstance(value, int | np.integer) and 0 < value < 2**63:
        return int(value)
    message = f"expected a whole number from 1, or None for the newest; got {value!r}"
    raise bad_value("version", message, "model_version")


def checked_count(name: str, value: object, none: str, field: str = "") -> int:
    """Give how many; None becomes 0, the contract's default, which ``none`` describes."""
    if value is None:
        return 0
    if (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)  # which is an int to Python
        and 1 <= value <= _MAX_COUNT
    ):
        return int(value)
    message = f"expected a whole number from 1 to {_MAX_COUNT}, or None for {none}; got {value!r}"
    raise bad_value(name, message, field)


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
    return InvalidArgumentError(f"{argument}: {message}", reason=reason, fields={field: message})
