"""Maps domain errors to gRPC statuses, with the details of protos/polyhead/v1/errors.proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any

from polyhead.v1 import errors_pb2 as pb
from polyhead_server import errors

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["DETAILS_KEY", "code_of", "status_of", "trailing_metadata"]

DETAILS_KEY = "grpc-status-details-bin"
"""Key of the trailing metadata from which gRPC's libraries read a google.rpc.Status."""
_DOMAIN = "polyhead"

_CODES: dict[type[errors.RequestError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.ModelUnavailableError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelControlError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.LimitExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotReadyError: grpc.StatusCode.UNAVAILABLE,
    errors.StoppingError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RequestError: grpc.StatusCode.INTERNAL,
}


def code_of(error: errors.RequestError) -> grpc.StatusCode:
    """Find the gRPC code of an error."""
    return _CODES[type(error)]


def status_of(error: errors.RequestError) -> pb.RpcStatus:
    """Write an error as a google.rpc.Status, with its details."""
    status = pb.RpcStatus(code=code_of(error).value[0], message=error.message)
    for detail in _details(error):
        # the name of the google.rpc type, because these messages have the same fields and numbers
        url = f"type.googleapis.com/google.rpc.{detail.DESCRIPTOR.name}"
        status.details.append(Any(type_url=url, value=detail.SerializeToString()))
    return status


def trailing_metadata(error: errors.RequestError) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata with an error's details."""
    return ((DETAILS_KEY, status_of(error).SerializeToString()),)


def _details(error: errors.RequestError) -> list[Message]:
    details: list[Message] = [
        pb.ErrorInfo(reason=error.reason, domain=_DOMAIN, metadata=error.figures)
    ]
    if isinstance(error, errors.InvalidRequestError):
        violation = pb.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(pb.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.LimitExceededError):
        quota = pb.QuotaFailure.Violation(subject=error.limit, description=error.message)
        details.append(pb.QuotaFailure(violations=[quota]))
    if isinstance(error, errors.OverloadedError | errors.NotReadyError | errors.StoppingError):
        retry = pb.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_after_ms)
        details.append(retry)
    return details
