"""Check arguments before anything is sent, as far as that is possible without the model.

Every function here and in _arguments raises InvalidArgumentError. Its message has the argument's
name, expected and got. Its code, reason and path of the field are those that the server returns for
the same fault.
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

MAX_REQUEST_ID_BYTES = 256
_MAX_COUNT = 2**31 - 1  # the contract's int32
_MAX_VERSION = 2**63 - 1  # the contract's int64


def checked_float_dtype(name: str, dtype: DTypeLike, field: str = "") -> DataType.ValueType:
    """Return the element type for arrays of the result."""
    try:
        return parse_dtype(dtype, FLOAT_NAMES)
    except TensorError as error:
        raise invalid(name, error.message, field or name, error.reason) from None


def checked_text(name: str, value: object, field: str = "") -> str:
    """Return a str that is not empty and can be encoded as UTF-8."""
    if not (isinstance(value, str) and value):
        is_missing = value is None or isinstance(value, str)
        reason = "REQUIRED" if is_missing else "INVALID_VALUE"
        message = f"expected a str that is not empty; got {value!r}"
        raise invalid(name, message, field or name, reason)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad_value(name, f"expected text; {value!r} has lone surrogates", field) from None
    return value


def checked_request_id(value: object) -> str:
    """Return a request's id, whose length the contract limits."""
    text = checked_text("request_id", value)
    if (size := len(text.encode())) > MAX_REQUEST_ID_BYTES:
        raise bad_value(
            "request_id", f"expected at most {MAX_REQUEST_ID_BYTES} bytes of UTF-8; got {size}"
        )
    return text


def checked_version(value: object, field: str) -> int:
    """Return a model's version; None becomes 0, which is the newest."""
    return checked_count("version", value, "the newest", field, max_count=_MAX_VERSION)


def checked_count(
    name: str, value: object, none: str, field: str = "", *, max_count: int = _MAX_COUNT
) -> int:
    """Return a count; None becomes 0, the contract's default, which ``none`` describes."""
    if value is None:
        return 0
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_whole and 1 <= cast("int", value) <= max_count:
        return int(cast("int", value))
    message = f"expected a whole number from 1 to {max_count}, or None for {none}; got {value!r}"
    raise invalid(name, message, field or name, "OUT_OF_RANGE" if is_whole else "INVALID_VALUE")


def checked_positive(name: str, value: object) -> int:
    """Return a count of 1 or more."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise bad_value(name, f"expected a whole number from 1; got {value!r}")
    return int(value)


def checked_switch(name: str, value: object, field: str = "") -> bool:
    """Return a bool. Numbers and text are refused, because "no" would be true."""
    if not isinstance(value, bool | np.bool_):
        raise bad_value(name, f"expected True or False; got {value!r}", field)
    return bool(value)


def bad_value(name: str, message: str, field: str = "") -> InvalidArgumentError:
    """Make the error for an unexpected value."""
    return invalid(name, message, field or name, "INVALID_VALUE")


def invalid(argument: str, message: str, field: str, reason: str) -> InvalidArgumentError:
    """Make an error with the caller's name of the argument and the contract's of the field."""
    text = f"{argument}: {message}"
    return InvalidArgumentError(text, code="INVALID_ARGUMENT", reason=reason, fields={field: text})


@contextmanager
def prefix_field_path(field: str) -> Iterator[None]:
    """Prefix the field paths of errors, for a message that is this field of another message."""
    try:
        yield
    except InvalidArgumentError as error:
        error.fields = {f"{field}.{path}": text for path, text in error.fields.items()}
        raise
