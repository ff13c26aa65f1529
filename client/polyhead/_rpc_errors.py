"""A failed call -> an exception of errors.py. Callers of polyhead never see a grpc.RpcError."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from polyhead import errors
from polyhead._proxies import proxy_advice
from polyhead.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.any_pb2 import Any as AnyMessage

    _Details: TypeAlias = dict[str, Any]
    """Arguments of a PolyheadError besides its message and code, by name."""
    _Pair: TypeAlias = tuple[str, bytes]

_ERRORS: dict[grpc.StatusCode, type[errors.PolyheadError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.ModelUnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.CANCELLED: errors.RequestCancelledError,
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AuthenticationError,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnsupportedOperationError,
}
_DETAILS_KEY = "grpc-status-details-bin"
_TYPE_URL = "type.googleapis.com/google.rpc."
# gRPC's message for a request or response over a size limit that the server gave to gRPC.
_TOO_LARGE = re.compile(
    r"SERVER: (?P<way>Received|Sent) message larger than max "
    r"\((?P<size>[0-9]{1,20}) vs\. (?P<limit>[0-9]{1,20})\)"
)
_TLS_FAILURE = re.compile(r"handshake|verification check", re.IGNORECASE)
"""In gRPC's messages for a connection whose TLS failed."""
_NO_TLS = (
    "no TLS connection with {target}: check that its certificate is signed by an authority of tls= "
    "(--tls-ca), names the host (or --tls-server-name) and has not expired, and that the client "
    "shows a certificate if the server asks for one ({text})"
)
_NO_SERVER = (
    "no server answers at {target}: check that it runs there (polyhead serve) and that host, port "
    "and TLS are right; a server with a certificate needs TLS, and trust in its authority, by tls= "
    "(--tls, --tls-ca) ({text})"
)
_CANCELLED_HERE = ("Channel closed", "Locally cancelled")
"""gRPC's messages for a call that this process has cancelled."""
_CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


def from_rpc_error(
    error: grpc.RpcError,
    *,
    target: str,
    timeout_s: float,
    is_connected: Callable[[], bool] = lambda: True,
) -> errors.PolyheadError:
    """Make the exception for a failed call; the caller raises it ``from`` the error.

    ``target`` and ``timeout_s`` are the call's; a message names the one that is the cause.
    ``is_connected``: whether the channel has a connection; called if the deadline has passed.
    """
    # The type stubs are wrong for both kinds of metadata (sync and aio); both yield pairs.
    metadata = cast("Iterable[_Pair]", error.trailing_metadata() or ())
    packed = next((value for key, value in metadata if key == _DETAILS_KEY), b"")
    status = errors_pb2.RpcStatus()
    with suppress(DecodeError):
        status = errors_pb2.RpcStatus.FromString(packed)
    details, text = _read_details(status), error.details() or ""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not details:
        return deadline_exceeded(target, timeout_s, is_connected)
    is_local = any(words in text for words in _CANCELLED_HERE)
    if error.code() is grpc.StatusCode.CANCELLED and not is_local:
        return errors.ServerUnavailableError(
            f"the server at {target} cancelled the call, as a stopping server does: try again, and "
            f"check that it runs ({text})",
            code=error.code().name,
        )
    return _make_error(error.code(), text, details, target, timeout_s)


def from_rpc_status(
    status: errors_pb2.RpcStatus, *, target: str, timeout_s: float
) -> errors.PolyheadError:
    """Make the exception for a failed request of a stream. It is the same as for a unary call."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _make_error(code, status.message, _read_details(status), target, timeout_s)


def deadline_exceeded(
    target: str, timeout_s: float, is_connected: Callable[[], bool]
) -> errors.PolyheadError:
    """Make the exception for a request that was not answered in time."""
    if is_connected():
        return _make_error(grpc.StatusCode.DEADLINE_EXCEEDED, "", {}, target, timeout_s)
    return errors.DeadlineExceededError(
        f"nothing answered as gRPC at {target} within {timeout_s:g} s: check that a polyhead "
        "server runs there (polyhead serve), and that host, port and TLS are right"
        f"{proxy_advice(target)}",
        code=grpc.StatusCode.DEADLINE_EXCEEDED.name,
    )


def _make_error(
    code: grpc.StatusCode, text: str, details: _Details, target: str, timeout_s: float
) -> errors.PolyheadError:
    # polyhead's server sends a reason and a complete message; other texts are gRPC's or a proxy's.
    if details.get("reason"):
        message = text
    elif too_large := _TOO_LARGE.search(text):
        message = _explain_too_large(too_large, details)
    else:
        message = _explain(code, text, target, timeout_s)
    return _ERRORS.get(code, errors.ServerError)(message, code=code.name, **details)


def _read_details(status: errors_pb2.RpcStatus) -> _Details:
    """Read google.rpc's detail messages. Malformed ones are ignored."""
    details: _Details = {}
    with suppress(DecodeError):
        for part in status.details:
            _read_detail(part, details)
    return details


def _read_detail(part: AnyMessage, details: _Details) -> None:
    match part.type_url.removeprefix(_TYPE_URL):
        case "ErrorInfo":
            info = errors_pb2.ErrorInfo.FromString(part.value)
            details["reason"], details["figures"] = info.reason, info.metadata
        case "BadRequest":
            request = errors_pb2.BadRequest.FromString(part.value)
            details["fields"] = {v.field: v.description for v in request.field_violations}
        case "QuotaFailure":
            quota = errors_pb2.QuotaFailure.FromString(part.value)
            details["limits"] = {v.subject: v.description for v in quota.violations}
        case "RetryInfo":
            delay = errors_pb2.RetryInfo.FromString(part.value).retry_delay
            details["retry_after_s"] = delay.seconds + delay.nanos / 1e9


def _explain_too_large(match: re.Match[str], details: _Details) -> str:
    """Return the message of polyhead's own check, and add the details that it would send."""
    size, limit = int(match["size"]), int(match["limit"])
    if match["way"] == "Received":
        limit //= 2  # the server lets gRPC receive twice its limit, to refuse requests itself
        details["reason"], subject = "REQUEST_TOO_LARGE", "max_request_bytes"
        message = (
            f"the request is {size:,} bytes and the server accepts at most {limit:,}: send fewer "
            "or shorter sequences at once, or raise the server's --max-request-bytes"
        )
    else:
        details["reason"], subject = "OUTPUT_TOO_LARGE", "max_response_bytes"
        message = (
            f"the response would be {size:,} bytes and the server sends at most {limit:,}: ask for "
            "fewer attention weights (Weights selects heads, queries and top_k), for blocks of "
            "rows (attend_rows) or for a smaller output_dtype, or raise the server's "
            "--max-response-bytes"
        )
    message = f"{message} (POLYHEAD_{subject.upper()})"
    details["limits"] = {subject: message}
    details["figures"] = {"expected": str(limit), "got": str(size)}
    return message


def _explain(code: grpc.StatusCode, text: str, target: str, timeout_s: float) -> str:
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            problem = _NO_TLS if _TLS_FAILURE.search(text) else _NO_SERVER
            return problem.format(target=target, text=text) + proxy_advice(target)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return (
                f"no answer from {target} within {timeout_s:g} s: give a longer timeout"
                f"{proxy_advice(target)}"
            )
        case grpc.StatusCode.CANCELLED:
            return f"the call to {target} was cancelled before it was answered ({text})"
        case grpc.StatusCode.UNIMPLEMENTED:
            return (
                f"the server at {target} does not know this call: expected a polyhead server no "
                f"older than this client ({text})"
            )
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return f"{target} refuses these credentials: check the client's token ({text})"
        case _:
            return f"the call to {target} failed with {code.name} ({text})"
