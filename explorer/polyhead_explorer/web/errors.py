"""Errors for the page: HTTP status, kind and message."""

from __future__ import annotations

import logging
import re
from typing import Any

from polyhead import errors
from polyhead.cli.shell_words import in_shell_words

__all__ = ["BadRequestError", "BusyError", "describe_error"]

_LOG = logging.getLogger("polyhead.explorer")
_BUSY = "busy"
_TEXT = re.compile(r"^texts?\[0\]: ")
"""The name of the only text in messages of the client and the server."""
_KINDS: tuple[tuple[type[errors.PolyheadError], int, str], ...] = (
    (errors.InvalidArgumentError, 400, "invalid"),
    (errors.ModelNotFoundError, 404, "no-model"),
    (errors.ModelUnavailableError, 503, "no-model"),
    (errors.ResourceExhaustedError, 413, "too-large"),
    (errors.DeadlineExceededError, 504, "slow"),
    (errors.ServerUnavailableError, 502, "down"),
    (errors.AuthenticationError, 502, "credentials"),
    (errors.PolyheadError, 502, "server"),
)


class BadRequestError(Exception):
    """A request that the page would not send. The message says what was expected."""


class BusyError(Exception):
    """The requests that arrive at the moment are as many as the explorer takes."""


def describe_error(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return an error's status and its JSON object. Logs unexpected errors.

    ``kind`` is a constant for the page's code, which retries after some kinds. Messages name the
    flags of the command that serves the page. They have no number of a text: there is only one.
    """
    if isinstance(error, BadRequestError):
        return 400, _error("invalid", str(error))
    if isinstance(error, BusyError):
        return 503, _error(_BUSY, "many requests arrive at once: try again in a second", 1.0)
    for error_type, status, kind in _KINDS:
        if isinstance(error, error_type):
            message = _TEXT.sub("the text ", in_shell_words(str(error)))
            if error.retry_after_s is not None:
                return 503, _error(_BUSY, message, error.retry_after_s)
            return status, _error(kind, message)
    _LOG.error("a request of the page failed", exc_info=error)
    return 500, _error("explorer", "the explorer failed; its terminal says more")


def _error(kind: str, message: str, retry_after_s: float | None = None) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "retry_after_s": retry_after_s}}
