"""The errors of requests, independent of gRPC; `rpc/status.py` maps them to statuses.

    RequestError
    ├── InvalidRequestError     a field does not fit the model or its own bytes
    ├── ModelNotFoundError      no such model, or no such version
    ├── ModelUnavailableError   in the repository, but not loaded
    ├── ModelControlError       callers may not load and unload models
    ├── UnauthenticatedError    no token, or one that the server does not know
    ├── PermissionDeniedError   the token's roles do not allow this call
    ├── LimitExceededError      a size over one of the server's limits
    ├── OverloadedError         the queue is full; try again
    ├── NotReadyError           the models are still being loaded; try again
    ├── StoppingError           the server is about to stop; another one may answer
    └── DeadlineError           the deadline passed before the block ran

StartupError and ModelFileError are not about requests: the first ends the server before it serves,
the second keeps a model from being served. A FetchError is
one that may pass without a change of the files.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "DeadlineError",
    "FetchError",
    "InvalidRequestError",
    "LimitExceededError",
    "ModelControlError",
    "ModelFileError",
    "ModelNotFoundError",
    "ModelUnavailableError",
    "NotReadyError",
    "OverloadedError",
    "PermissionDeniedError",
    "RequestError",
    "StartupError",
    "StoppingError",
    "UnauthenticatedError",
    "drop_frames",
    "listed",
    "prefix_field_path",
    "quoted",
    "unwrap",
]

_T = TypeVar("_T")
_MAX_MESSAGE_BYTES, _MAX_FIELD_BYTES = 900, 200
"""A call's status has the message three times, once with up to three bytes for each byte, and gRPC
replaces a status of more than 8 KiB by an error of its own."""


def quoted(text: object, max_chars: int = 80) -> str:
    """Quote what a caller or a file says, in a message; long texts are cut.

    Every name that is not ours goes through here, so that it leaves room for the rest.
    """
    shown = str(text)
    return repr(shown if len(shown) <= max_chars else shown[:max_chars] + "…")


def listed(texts: Iterable[object], max_listed: int = 10) -> str:
    """List the first texts, each cut, and say how many more there are."""
    shown = [quoted(text)[1:-1] for text in texts]
    more = f" and {len(shown) - max_listed} more" if len(shown) > max_listed else ""
    return ", ".join(shown[:max_listed]) + more


class StartupError(Exception):
    """The server cannot start with its settings; the message names the fix."""


class ModelFileError(Exception):
    """A file cannot be served as a model; the message says why, without paths.

    A long message, which quotes the file, is cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_cut(message, _MAX_MESSAGE_BYTES))


class FetchError(ModelFileError):
    """A version cannot be fetched now; another attempt may succeed with the same files."""


class RequestError(Exception):
    """A request failed.

    The message says what was wrong, what was expected and what to do. It reaches the caller, so
    it never holds a path, a class name or a host. A long one, which quotes the request, is cut.
    """

    def __init__(self, message: str, reason: str, **figures: object) -> None:
        self.message = _cut(message, _MAX_MESSAGE_BYTES)
        super().__init__(self.message)
        self.reason = reason
        """A stable constant in UPPER_SNAKE_CASE, for programs."""
        self.figures = {n: _cut(str(value), _MAX_FIELD_BYTES) for n, value in figures.items()}
        """Values for programs, such as ``expected`` and ``got``."""


class InvalidRequestError(RequestError):
    """A field of the request is wrong."""

    def __init__(self, field: str, message: str, reason: str, **figures: object) -> None:
        self.field = _cut(field, _MAX_FIELD_BYTES)
        """Path of the field in the request, such as ``query.shape``."""
        super().__init__(f"{self.field}: {message}", reason, **figures)
        self.problem = message
        """The message without the field."""


def _cut(text: str, max_bytes: int) -> str:
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[:max_bytes].decode(errors="ignore") + "…"


@contextmanager
def prefix_field_path(field: str) -> Iterator[None]:
    """Prefix the paths in errors about a message that is the field ``field`` of another."""
    try:
        yield
    except InvalidRequestError as error:
        path = f"{field}.{error.field}"
        raise InvalidRequestError(path, error.problem, error.reason, **error.figures) from error


def drop_frames(error: BaseException) -> None:
    """Make an exception refer to no frame, because frames keep the request in memory."""
    error.__traceback__ = error.__context__ = error.__cause__ = None


def unwrap(outcome: _T | BaseException) -> _T:
    """Return an outcome, or raise it if it is an exception.

    An exception refers to its traceback, and that to every frame it passed. If one of these frames
    has a name for the exception, they refer to each other: a cycle, which keeps the frames' request
    in memory until Python's garbage collector runs. So this frame drops its name, and the caller
    must not have one: `unwrap(*batch.run())`.
    """
    try:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
    finally:
        del outcome


class ModelNotFoundError(RequestError):
    """The server has no such model, or no such version of it."""


class ModelUnavailableError(RequestError):
    """The model is in the repository, but it is not loaded."""


class ModelControlError(RequestError):
    """Callers may not load and unload models."""

    def __init__(self, needed: str = "explicit") -> None:
        """``needed``: the value of --model-control that allows what was asked for."""
        super().__init__(
            "this server does not load or unload models for callers; start it with "
            f"--model-control {needed}",
            "MODEL_CONTROL_OFF",
        )


class UnauthenticatedError(RequestError):
    """The call has no token, or one that the server does not know."""

    @classmethod
    def no_token(cls) -> UnauthenticatedError:
        """Make the error of a call without a token."""
        return cls(
            "this call needs a token: send the metadata `authorization: Bearer TOKEN` once, as "
            "polyhead's clients do with token= or POLYHEAD_TOKEN",
            "TOKEN_REQUIRED",
        )

    @classmethod
    def wrong_token(cls) -> UnauthenticatedError:
        """Make the error of a call with a token that is not valid."""
        return cls(
            "the server does not know this token: check that it was copied whole and has not been "
            "revoked, or ask the server's operator for another",
            "TOKEN_INVALID",
        )


class PermissionDeniedError(RequestError):
    """The token's roles do not allow this call."""

    def __init__(self, role: str) -> None:
        super().__init__(
            f"this call needs a token with the role {role}, and yours does not have it: ask the "
            "server's operator for one that does",
            "ROLE_REQUIRED",
            role=role,
        )


class LimitExceededError(RequestError):
    """A size exceeds one of the server's limits."""

    def __init__(self, limit: str, message: str, reason: str, **figures: object) -> None:
        super().__init__(message, reason, **figures)
        self.limit = limit
        """Name of the limit in ServerLimits."""


class OverloadedError(RequestError):
    """The queue is full."""

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message, "OVERLOADED")
        self.retry_after_ms = retry_after_ms
        """How long to wait before trying again."""


class NotReadyError(RequestError):
    """The models are still being loaded."""

    retry_after_ms = 1000
    """How long to wait before trying again."""

    def __init__(self) -> None:
        super().__init__("the server is still loading its models; try again shortly", "NOT_READY")


class StoppingError(RequestError):
    """The server is about to stop, and takes no more calls."""

    retry_after_ms = 100
    """How long to wait before trying again, which may reach another server."""

    def __init__(self) -> None:
        super().__init__(
            "the server is stopping and takes no more calls; try again, which may reach another",
            "STOPPING",
        )


class DeadlineError(RequestError):
    """The deadline passed before the block ran."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "DEADLINE_EXCEEDED")

    @classmethod
    def before_run(cls) -> DeadlineError:
        """Make the error of a request that never ran."""
        return cls(
            "the deadline passed before the request could run; allow more time, or send less"
        )

    @classmethod
    def while_running(cls) -> DeadlineError:
        """Make the error of a request that was waiting or running."""
        return cls("the deadline passed before the request was done; allow more time, or send less")
