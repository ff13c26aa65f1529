"""Reads why a call was refused, as stock clients do."""

from __future__ import annotations

from typing import NamedTuple

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class Refusal(NamedTuple):
    code: grpc.StatusCode
    reason: str
    field: str
    limit: str
    message: str


def read_refusal(error):
    """Return a failed call's code, and what its details say."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error.code()}: {error.details()}"
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found = {}
    for kind in ("ErrorInfo", "BadRequest", "QuotaFailure", "RetryInfo"):
        detail = getattr(error_details_pb2, kind)()
        for packed in status.details:
            if packed.Unpack(detail):
                found[kind] = detail
    assert found["ErrorInfo"].domain == "polyhead"
    fields = found.get("BadRequest", error_details_pb2.BadRequest()).field_violations
    limits = found.get("QuotaFailure", error_details_pb2.QuotaFailure()).violations
    return Refusal(
        error.code(),
        found["ErrorInfo"].reason,
        fields[0].field if fields else "",
        limits[0].subject if limits else "",
        status.message,
    )


def refused(method, request, timeout=30):
    """Call a method, which must refuse the request, and return why."""
    with pytest.raises(grpc.RpcError) as caught:
        _read(method(request, timeout=timeout))
    return read_refusal(caught.value)


def _read(answer):
    """Read the answer to the end if it is a stream."""
    if hasattr(answer, "__iter__"):
        list(answer)
