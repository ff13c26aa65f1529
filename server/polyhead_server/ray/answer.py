"""The answers of a replica to Serve's proxy: a message of a response, or the failure of a call."""

from __future__ import annotations

from typing import NamedTuple

import grpc

__all__ = ["Answer", "TIME_REMAINING"]

TIME_REMAINING = "polyhead-time-remaining-s"
"""The metadata in which the proxy passes on how many seconds the caller still waits, because Serve
passes on no deadline."""


class Answer(NamedTuple):
    """A message, or a status.

    Serve passes on a status that is set by an exception, but not its trailing metadata, which hold
    the details of an error. So a replica sends a failure as an answer.
    """

    message: bytes = b""
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()

    def SerializeToString(self) -> Answer:  # noqa: N802 - protobuf's name, which Serve calls
        """Return the answer itself, because Serve passes the return value to the proxy."""
        return self
