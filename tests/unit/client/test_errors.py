"""Failed calls raise exceptions that say what was wrong, what was expected and what to do."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from grpc.aio import AioRpcError, Metadata

import polyhead
from polyhead import errors
from polyhead._rpc_errors import from_rpc_error
from polyhead.v1 import errors_pb2 as pb

PREFIX = "type.googleapis.com/google.rpc."


def pack(*details, code=0):
    status = pb.RpcStatus(code=code)
    for detail in details:
        url = PREFIX + detail.DESCRIPTOR.name
        status.details.append(Any(type_url=url, value=detail.SerializeToString()))
    return status.SerializeToString()


def translate(code, text="", packed=None):
    trailing = Metadata() if packed is None else Metadata(("grpc-status-details-bin", packed))
    error = AioRpcError(getattr(grpc.StatusCode, code), Metadata(), trailing, details=text)
    return from_rpc_error(error, target="host:1", timeout_s=2.5)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", errors.InvalidArgumentError),
        ("OUT_OF_RANGE", errors.InvalidArgumentError),
        ("NOT_FOUND", errors.ModelNotFoundError),
        ("FAILED_PRECONDITION", errors.ModelUnavailableError),
        ("RESOURCE_EXHAUSTED", errors.ResourceExhaustedError),
        ("DEADLINE_EXCEEDED", errors.DeadlineExceededError),
        ("CANCELLED", errors.ServerUnavailableError),
        ("UNAVAILABLE", errors.ServerUnavailableError),
        ("UNAUTHENTICATED", errors.AuthenticationError),
        ("PERMISSION_DENIED", errors.AuthenticationError),
        ("UNIMPLEMENTED", errors.UnsupportedOperationError),
        ("INTERNAL", errors.ServerError),
        ("UNKNOWN", errors.ServerError),
        ("DATA_LOSS", errors.ServerError),
    ],
)
def test_every_status_has_its_exception(code, kind):
    """CANCELLED is here sent by the server, as a stopping one does."""
    error = translate(code, "what the other end said")
    assert type(error) is kind
    assert error.code == code
    assert "host:1" in str(error)
    if code != "DEADLINE_EXCEEDED":
        assert "what the other end said" in str(error)


@pytest.mark.parametrize(
    "text", ["Stream removed (Channel closed!)", "Locally cancelled by application!"]
)
def test_a_call_cancelled_by_this_process_is_a_cancelled_request(text):
    assert type(translate("CANCELLED", text)) is errors.RequestCancelledError


def test_errors_of_the_server_keep_message_and_details():
    retry = pb.RetryInfo()
    retry.retry_delay.FromMilliseconds(1250)
    packed = pack(
        pb.ErrorInfo(reason="A_REASON", domain="polyhead", metadata={"got": "3"}),
        pb.BadRequest(
            field_violations=[pb.BadRequest.FieldViolation(field="query.shape", description="flat")]
        ),
        pb.QuotaFailure(
            violations=[pb.QuotaFailure.Violation(subject="max_queue_size", description="full")]
        ),
        retry,
    )
    error = translate("RESOURCE_EXHAUSTED", "its own words", packed)
    assert str(error) == "its own words"
    assert error.reason == "A_REASON"
    assert error.figures == {"got": "3"}
    assert error.fields == {"query.shape": "flat"}
    assert error.limits == {"max_queue_size": "full"}
    assert error.retry_after_s == 1.25


def test_unknown_details_are_ignored():
    help_message = Any(type_url=PREFIX + "Help", value=b"\x0a\x00")
    status = pb.RpcStatus(details=[help_message])
    status.details.append(
        Any(type_url=PREFIX + "ErrorInfo", value=pb.ErrorInfo(reason="KNOWN").SerializeToString())
    )
    assert translate("NOT_FOUND", "", status.SerializeToString()).reason == "KNOWN"


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"garbage",
        b"\xff" * 50,
        pack(pb.ErrorInfo(reason="LONG" * 9))[:-3],
        pb.RpcStatus(
            details=[Any(type_url=PREFIX + "ErrorInfo", value=b"\xff\xff")]
        ).SerializeToString(),
    ],
)
def test_malformed_details_are_ignored(packed):
    error = translate("NOT_FOUND", "no such model", packed)
    assert isinstance(error, errors.ModelNotFoundError)
    assert error.reason == ""
    assert "no such model" in str(error)


@pytest.mark.parametrize("prefix", ["", "Stream removed ("])
def test_a_request_over_the_servers_limit(prefix):
    words = f"{prefix}SERVER: Received message larger than max (10000000 vs. 8388608)"
    error = translate("RESOURCE_EXHAUSTED", words)
    for part in (
        "request is 10,000,000 bytes",
        "at most 4,194,304",
        "--max-request-bytes",
        "POLYHEAD_MAX_REQUEST_BYTES",
    ):
        assert part in str(error)
    assert error.reason == "REQUEST_TOO_LARGE"
    assert list(error.limits) == ["max_request_bytes"]
    assert error.figures == {"expected": "4194304", "got": "10000000"}


def test_sizes_that_no_server_has_are_left_as_they_are():
    words = f"SERVER: Received message larger than max ({'9' * 5000} vs. 8388608)"
    error = translate("RESOURCE_EXHAUSTED", words)
    assert isinstance(error, errors.ResourceExhaustedError)
    assert words in str(error)


def test_a_response_over_the_servers_limit():
    words = "SERVER: Sent message larger than max (70000000 vs. 64000000)"
    error = translate("RESOURCE_EXHAUSTED", words)
    for part in (
        "response would be 70,000,000",
        "64,000,000",
        "--max-response-bytes",
        "Weights selects heads, queries and top_k",
        "attend_rows",
    ):
        assert part in str(error)
    assert error.reason == "OUTPUT_TOO_LARGE"
    assert list(error.limits) == ["max_response_bytes"]


def test_a_missing_server_names_the_target_and_the_command_to_start_one():
    assert "polyhead serve" in str(translate("UNAVAILABLE", "refused"))


def test_a_deadline_error_has_the_timeout():
    assert "within 2.5 s" in str(translate("DEADLINE_EXCEEDED", "Deadline Exceeded"))


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (polyhead.InvalidArgumentError, ValueError),
        (polyhead.DeadlineExceededError, TimeoutError),
        (polyhead.ServerUnavailableError, ConnectionError),
        (polyhead.MissingExtraError, ImportError),
    ],
)
def test_errors_subclass_pythons_own(kind, builtin):
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_have_one_root_and_can_be_pickled(name):
    kind = getattr(errors, name)
    assert issubclass(kind, polyhead.PolyheadError)
    error = pickle.loads(pickle.dumps(kind("text", code="X", fields={"a": "b"}, retry_after_s=2)))
    assert type(error) is kind
    assert str(error) == "text"
    assert (error.code, error.fields, error.retry_after_s) == ("X", {"a": "b"}, 2)


def test_the_documented_tree_is_complete():
    drawn = {word for word in errors.__doc__.split() if word.endswith("Error")}
    assert drawn == set(errors.__all__)
