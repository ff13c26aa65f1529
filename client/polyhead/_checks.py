"""Check arguments before anything is sent, as far as this is possible without the model.

Every function here and in _arguments raises InvalidArgumentError. Its message has the argument's
name, the expected value and the given one. Its code, reason and field path are those that the
server returns for the same error. NumPy is imported inside functions, because `polyhead health`,
which probes run every few seconds, must start fast.
"""

from __future__ import annotations

from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from polyhead.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from numpy.typing import DTypeLike

    from polyhead.v1.attention_pb2 import DataType

MAX_REQUEST_ID_BYTES = 256
_MAX_COUNT = 2**31 - 1  # the contract's int32
_MAX_VERSION = 2**63 - 1  # the contract's int64


def checked_float_dtype(name: str, dtype: DTypeLike, field: str = "") -> DataType.ValueType:
    """Return the element type for arrays of the result."""
    from polyhead.wire.tensors import FLOAT_NAMES, TensorError, parse_dtype

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
    """Return a count. None becomes 0, the contract's default; ``none`` describes its meaning."""
    if value is None:
        return 0
    count = _as_whole(value)
    if count is not None and 1 <= count <= max_count:
        return count
    message = f"expected a whole number from 1 to {max_count}, or None for {none}; got {value!r}"
    reason = "INVALID_VALUE" if count is None else "OUT_OF_RANGE"
    raise invalid(name, message, field or name, reason)


def checked_positive(name: str, value: object) -> int:
    """Return a count of 1 or more."""
    count = _as_whole(value)
    if count is None or count < 1:
        raise bad_value(name, f"expected a whole number from 1; got {value!r}")
    return count


def _as_whole(value: object) -> int | None:
    """Return a whole number, which may be NumPy's; None for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return None


def checked_switch(name: str, value: object, field: str = "") -> bool:
    """Return a bool. Numbers and text are refused, because "no" would be true."""
    if isinstance(value, bool):
        return value
    import numpy as np

    if not isinstance(value, np.bool_):
        raise bad_value(name, f"expected True or False; got {value!r}", field)
    return bool(value)


def is_iterable(value: object) -> bool:
    """Whether a value can be iterated. An array without axes cannot, although it has __iter__."""
    try:
        iter(value)  # type: ignore[call-overload] # raises TypeError if it cannot
    except TypeError:
        return False
    return True


def read_file(name: str, path: str | PathLike[str], field: str = "") -> bytes:
    """Return the contents of the file that an argument names."""
    try:
        return Path(path).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise bad_value(name, f"{path} cannot be read: {reason}", field) from error


def bad_value(name: str, message: str, field: str = "") -> InvalidArgumentError:
    """Make the error for an unexpected value."""
    return invalid(name, message, field or name, "INVALID_VALUE")


def invalid(argument: str, message: str, field: str, reason: str) -> InvalidArgumentError:
    """Make an error with the name of the caller's argument and the path of the contract's field."""
    text = f"{argument}: {message}"
    return InvalidArgumentError(text, code="INVALID_ARGUMENT", reason=reason, fields={field: text})


@contextmanager
def prefix_field_path(field: str) -> Iterator[None]:
    """Prefix the field paths of errors, for a message that is a field of another message."""
    try:
        yield
    except InvalidArgumentError as error:
        error.fields = {f"{field}.{path}": text for path, text in error.fields.items()}
        raise
