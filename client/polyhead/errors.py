"""The exceptions that polyhead raises, as one tree.

::

    PolyheadError
    ├── InvalidArgumentError (ValueError)        an argument that fits neither model nor contract
    ├── ModelNotFoundError                       no such model, or no such version of it
    ├── ModelUnavailableError                    the server has the model but could not load it
    ├── ResourceExhaustedError                   over a limit of the server, or its queue is full
    ├── DeadlineExceededError (TimeoutError)     no answer within the timeout
    ├── RequestCancelledError                    the call was cancelled before it was answered
    ├── ServerUnavailableError (ConnectionError) no server there, or it is shutting down
    ├── AuthenticationError                      the server wants other credentials
    ├── UnsupportedOperationError                the server does not know this call
    ├── ServerError                              the server failed, or its reply made no sense
    ├── ClientClosedError                        the client was used after close()
    └── MissingExtraError (ImportError)          a package that an extra installs is missing

Each message says what was wrong, what was expected and what to do. An InvalidArgumentError has the
same code, reason and paths of fields, whether the client found the fault before sending or the
server after. The client's message uses the argument's Python name, and it has no figures; messages
of forward use it in both cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AuthenticationError",
    "ClientClosedError",
    "DeadlineExceededError",
    "InvalidArgumentError",
    "MissingExtraError",
    "ModelNotFoundError",
    "ModelUnavailableError",
    "PolyheadError",
    "RequestCancelledError",
    "ResourceExhaustedError",
    "ServerError",
    "ServerUnavailableError",
    "UnsupportedOperationError",
]


class PolyheadError(Exception):
    """The root of the tree: every error that polyhead raises is a subclass."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        fields: Mapping[str, str] | None = None,
        limits: Mapping[str, str] | None = None,
        figures: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        """Name of the gRPC status, such as ``NOT_FOUND``; ``INVALID_ARGUMENT`` too where an
        argument was refused before anything was sent; empty if there is none."""
        self.reason = reason
        """A stable constant for programs, such as ``BYTE_SIZE_MISMATCH``; empty if unknown."""
        self.fields = dict(fields or {})
        """The request's errors: the path of a field, such as ``query.shape``, to text."""
        self.limits = dict(limits or {})
        """Which limits were passed: name in ServerLimits to text."""
        self.figures = dict(figures or {})
        """Numbers of this failure by name, such as ``expected`` and ``got``, from the server."""
        self.retry_after_s = retry_after_s
        """Seconds after which the server suggests trying again; None if it does not suggest it."""


class InvalidArgumentError(PolyheadError, ValueError):
    """An argument that fits neither the model nor the contract; ``fields`` has the reasons."""


class ModelNotFoundError(PolyheadError):
    """No such model in the server's repository, or no such version of it."""


class ModelUnavailableError(PolyheadError):
    """The model is in the server's repository but could not be loaded."""


class ResourceExhaustedError(PolyheadError):
    """A size over the server's limits (``limits`` says which), or a full queue.

    A full queue passes: ``retry_after_s`` is then set.
    """


class DeadlineExceededError(PolyheadError, TimeoutError):
    """No answer within the timeout."""


class RequestCancelledError(PolyheadError):
    """The call was cancelled before it was answered, by close()."""


class ServerUnavailableError(PolyheadError, ConnectionError):
    """There is no server at the target, or it is shutting down."""


class AuthenticationError(PolyheadError):
    """The server, or a proxy before it, requires other credentials."""


class UnsupportedOperationError(PolyheadError):
    """The server does not know this call."""


class ServerError(PolyheadError):
    """The server failed, or its reply could not be read."""


class ClientClosedError(PolyheadError):
    """The client was used after close(), or outside of its event loop."""


class MissingExtraError(PolyheadError, ImportError):
    """A package that one of polyhead's extras installs is missing."""
