"""Every domain error becomes a status that standard gRPC libraries can read."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from polyhead_server import errors
from polyhead_server.rpc import status

INVALID = errors.InvalidRequestError("query.shape", "too big", "SHAPE", expected=[1, 2], got=3)
LIMIT = errors.LimitExceededError("max_request_bytes", "too large", "TOO_LARGE", expected=1, got=2)
ERRORS = {
    INVALID: "INVALID_ARGUMENT",
    errors.ModelNotFoundError("none", "MODEL_NOT_FOUND"): "NOT_FOUND",
    errors.ModelUnavailableError("bad", "MODEL_INVALID"): "FAILED_PRECONDITION",
    errors.ModelControlError(): "FAILED_PRECONDITION",
    errors.UnauthenticatedError.no_token(): "UNAUTHENTICATED",
    errors.UnauthenticatedError.wrong_token(): "UNAUTHENTICATED",
    errors.PermissionDeniedError("admin"): "PERMISSION_DENIED",
    LIMIT: "RESOURCE_EXHAUSTED",
    errors.OverloadedError("full", retry_after_ms=1250): "RESOURCE_EXHAUSTED",
    errors.NotReadyError(): "UNAVAILABLE",
    errors.StoppingError(): "UNAVAILABLE",
    errors.DeadlineError("late"): "DEADLINE_EXCEEDED",
    errors.RequestError("internal error", "INTERNAL"): "INTERNAL",
}


class _Failed(grpc.Call):
    """The part of a failed call that grpc_status reads: code, message and metadata."""

    def __init__(self, error):
        self._error = error

    def code(self):
        return status.code_of(self._error)

    def details(self):
        return self._error.message

    def trailing_metadata(self):
        return status.trailing_metadata(self._error)

    def _never(self, *_):
        raise NotImplementedError

    add_callback = cancel = initial_metadata = is_active = time_remaining = _never


def details(error, message_type):
    """Read an error's details of one type with the classes of googleapis."""
    read = rpc_status.from_call(_Failed(error))
    assert isinstance(read, status_pb2.Status)
    found = []
    for packed in read.details:
        message = message_type()
        if packed.Unpack(message):
            found.append(message)
    return found


def test_this_test_lists_every_error():
    everything = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    requests = {kind for kind in everything if issubclass(kind, errors.RequestError)}
    assert requests == {type(error) for error in ERRORS}


@pytest.mark.parametrize(("error", "code"), ERRORS.items(), ids=lambda x: type(x).__name__)
def test_errors_have_a_code_a_message_and_a_reason(error, code):
    assert status.code_of(error).name == code
    read = rpc_status.from_call(_Failed(error))  # checks code and message against the details'
    assert read.code == code_pb2.Code.Value(code)
    assert read.message == error.message
    (info,) = details(error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (error.reason, "polyhead")
    assert info.reason.isupper()


def test_figures_are_metadata_of_error_info():
    (info,) = details(INVALID, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"expected": "[1, 2]", "got": "3"}


def test_bad_request_has_the_path_of_the_field():
    (bad,) = details(INVALID, error_details_pb2.BadRequest)
    (violation,) = bad.field_violations
    assert (violation.field, violation.description) == ("query.shape", "query.shape: too big")


def test_quota_failure_has_the_limit():
    (quota,) = details(LIMIT, error_details_pb2.QuotaFailure)
    assert (quota.violations[0].subject, quota.violations[0].description) == (
        "max_request_bytes",
        "too large",
    )


def test_transient_errors_say_when_to_retry():
    seconds = {}
    for error in ERRORS:
        for retry in details(error, error_details_pb2.RetryInfo):
            seconds[type(error)] = retry.retry_delay.ToTimedelta().total_seconds()
    assert seconds == {
        errors.OverloadedError: 1.25,
        errors.NotReadyError: 1.0,
        errors.StoppingError: 0.1,
    }
