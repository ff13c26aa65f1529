"""What a server answers, read by the client; the first byte says what it is.

A client may talk to a server that is newer, broken or hostile: only errors of polyhead's may come
of it. Responses must hold what protobuf reads in them, and be read the same when their template is
known.
"""

from __future__ import annotations

import dataclasses

import fake_whole
import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from tests.fuzz import readings

from polyhead import PolyheadError, Weights
from polyhead._calls.forward_errors import errors_name_arguments
from polyhead._calls.forward_request import prepare_forward
from polyhead._calls.forward_response import parse_forward_response
from polyhead._calls.request import prepare_call
from polyhead._calls.response import (
    parse_attend_response,
    parse_attend_responses,
    parse_attend_rows_response,
)
from polyhead._client.descriptions import parse_change, parse_model, parse_server_info
from polyhead._rpc_errors import from_rpc_error, from_rpc_status
from polyhead._stream.messages import PendingRequest, read_replies
from polyhead._stream.pending_requests import PendingRequests
from polyhead.errors import InvalidArgumentError, ServerError
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import errors_pb2
from polyhead.v1 import forward_pb2 as fpb
from polyhead.wire.protobuf import varint
from polyhead.wire.tensors import to_array, to_tensor

__all__ = ["check", "seeds"]

_QUERY = np.ones((1, 2, 4), np.float32)
_EXPECTED = prepare_call(
    _QUERY, model="m", need_weights=Weights(heads=[0], queries=[1, 0], top_k=1)
).expected
_WHOLE = {"model": "bert", "need_hidden_states": True}


def check(data):
    kind, data = data[:1], data[1:]
    checks = (_attend, _rows, _stream, _forward, _status, _descriptions, _error_text)
    checks[kind[0] % len(checks) if kind else 0](data)


def seeds():
    tensors = {
        "output": to_tensor(_QUERY),
        "attn_weights": to_tensor(np.ones((1, 1, 2, 1), np.float32)),
        "top_keys": to_tensor(np.zeros((1, 1, 2, 1), np.int32)),
    }
    execution = pb.Execution(model="m", model_version=1, queue_ms=0.5, compute_ms=1.5, batch_size=1)
    response = pb.AttendResponse(request_id="r", execution=execution, **tensors)
    status = errors_pb2.RpcStatus(code=3, message="query: is required")
    for detail in (
        errors_pb2.ErrorInfo(reason="REQUIRED", domain="polyhead", metadata={"got": "1"}),
        errors_pb2.BadRequest(
            field_violations=[errors_pb2.BadRequest.FieldViolation(field="query")]
        ),
        errors_pb2.RetryInfo(),
    ):
        packed = status.details.add()
        packed.type_url = "type.googleapis.com/google.rpc." + type(detail).__name__
        packed.value = detail.SerializeToString()
    replies = [pb.StreamedReply(id=number, response=response) for number in (1, 2, 300)]
    replies.append(pb.StreamedReply(id=4, error=status))
    change = pb.ModelChange(name="m", version=1, outcome=pb.MODEL_OUTCOME_LOADED)
    models = [fake_whole.describe("t5")]
    return [
        b"\0" + response.SerializeToString(),
        b"\1" + pb.AttendRowsResponse(block=response).SerializeToString(),
        b"\2" + pb.AttendStreamResponse(replies=replies).SerializeToString(),
        *(
            b"\3" + fake_whole.forward(request).SerializeToString()
            for request in (_forward_call(name).request for name in range(3))
        ),
        b"\4" + status.SerializeToString(),
        b"\4" + _too_large().SerializeToString(),
        b"\5\0" + pb.ListModelsResponse(models=models).SerializeToString(),
        b"\5\1" + pb.ReloadModelsResponse(changes=[change]).SerializeToString(),
        b"\5\2" + pb.GetServerInfoResponse(version="1", providers=["p"]).SerializeToString(),
        b"\6SERVER: Received message larger than max (12 vs. 10)",
    ]


def _too_large():
    status = errors_pb2.RpcStatus(code=8, message="attn_weights[0].layer: is too large")
    info = errors_pb2.ErrorInfo(reason="REQUEST_TOO_LARGE", metadata={"expected": "12"})
    field = errors_pb2.BadRequest.FieldViolation(field="attn_weights[0].layer")
    for detail in (info, errors_pb2.BadRequest(field_violations=[field])):
        packed = status.details.add()
        packed.type_url = "type.googleapis.com/google.rpc." + type(detail).__name__
        packed.value = detail.SerializeToString()
    return status


def _attend(data):
    message = readings.parsed(pb.AttendResponse, data)
    results = []
    for _ in range(2):  # once when its template is new, once when it is known
        try:
            results.append(parse_attend_response(_EXPECTED, data))
        except ServerError as error:
            results.append(error)
    first, second = results
    assert str(first) == str(second)
    if isinstance(first, ServerError):
        return
    assert message is not None
    _compare(first, message)


def _compare(result, message):
    assert result.request_id == message.request_id
    for name in ("output", "attn_weights", "top_keys"):
        array = getattr(result, name)
        assert (array is not None) == message.HasField(name)
        if array is not None:
            assert array.tobytes() == to_array(getattr(message, name)).tobytes()


def _rows(data):
    for next_row in (0, 1):
        try:
            rows = parse_attend_rows_response(_EXPECTED, data, next_row)
        except ServerError:
            continue
        message = pb.AttendRowsResponse.FromString(data)
        assert rows.first_row == message.first_row == next_row
        _compare(rows, message.block)


def _stream(data):
    message = readings.parsed(pb.AttendStreamResponse, data)
    try:
        groups = list(read_replies(data))
    except ServerError:
        return
    if message is None:
        return  # its replies are read one by one, so a bad one does not spoil the others
    expected = list(message.replies)
    for group in groups:
        replies, expected = expected[: len(group.ids)], expected[len(group.ids) :]
        for stream_id, reply in zip(group.ids, replies, strict=True):
            assert stream_id in ([varint(reply.id)] if reply.id else [b"", b"\0"])
        if isinstance(group.error, bytes):
            _status(group.error)
            assert replies[0].HasField("error")
            continue
        if group.match is None:
            continue
        outcomes = parse_attend_responses([_EXPECTED] * len(replies), group.match)
        for outcome, reply in zip(outcomes, replies, strict=True):
            if not isinstance(outcome, ServerError):
                _compare(outcome, reply.response)
    assert not expected


def _forward_call(number):
    if number == 0:
        return prepare_forward("the river", need_weights=True, **_WHOLE)
    if number == 1:
        weights = {1: Weights(queries=["river"], top_k=2), 0: Weights(heads=[0])}
        return prepare_forward("the river", need_weights=weights, **_WHOLE)
    ids = np.array([[2, 4, 5], [2, 5, 0]])
    return prepare_forward(
        token_ids=ids, lengths=[3, 2], model="bert", need_hidden_states=[1], output_dtype="float16"
    )


def _forward(data):
    for number in range(3):
        try:
            result = parse_forward_response(_forward_call(number).expected, data)
        except ServerError:
            continue
        message = fpb.ForwardResponse.FromString(data)
        assert result.request_id == message.request_id
        if result.output is not None:
            assert result.output.tobytes() == to_array(message.output).tobytes()
        states = [to_array(each.hidden_states) for each in message.hidden_states]
        for array, wanted in zip(result.hidden_states.values(), states, strict=True):
            assert array.tobytes() == wanted.tobytes()


def _status(data):
    try:
        status = errors_pb2.RpcStatus.FromString(data)
    except DecodeError:
        return
    request = _Pending(1, prepare_call(_QUERY, model="m"), 1.0)
    pending = PendingRequests("host:1")
    pending.add(request)
    pending.end(_RpcError(status.message, data))  # of a stream
    error = from_rpc_status(status, target="host:1", timeout_s=1.0)
    _check_error(error)
    if isinstance(error, InvalidArgumentError):
        with pytest.raises(InvalidArgumentError), errors_name_arguments(_forward_call(1).expected):
            raise error


def _descriptions(data):
    """Read descriptions of models and servers; gRPC parses these messages."""
    kind, data = data[:1], data[1:]
    try:
        if kind == b"\0":
            list(map(parse_model, pb.ListModelsResponse.FromString(data).models))
        elif kind == b"\1":
            list(map(parse_change, pb.ReloadModelsResponse.FromString(data).changes))
        else:
            parse_server_info(pb.GetServerInfoResponse.FromString(data))
    except DecodeError:
        return


class _Pending(PendingRequest):
    __slots__ = ()

    def resolve(self, outcome):
        assert isinstance(outcome, PolyheadError)


@dataclasses.dataclass
class _RpcError(grpc.RpcError):
    text: str
    status: bytes = b""

    def code(self):
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self):
        return self.text

    def trailing_metadata(self):
        return [("grpc-status-details-bin", self.status)]


def _error_text(data):
    error = _RpcError(data.decode("utf-8", "replace"))
    _check_error(from_rpc_error(error, target="host:1", timeout_s=1.0))


def _check_error(error):
    assert isinstance(error, PolyheadError)
    assert str(error) is not None
    assert all(isinstance(text, str) for text in (*error.fields, *error.figures.values()))
