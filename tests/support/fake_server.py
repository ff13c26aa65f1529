"""A server that fails on request, for behaviour that no healthy server shows."""

from __future__ import annotations

import threading
from concurrent import futures

import fake_whole
import grpc
import numpy as np
from google.protobuf.any_pb2 import Any

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc, errors_pb2
from polyhead.wire.tensors import to_array, to_tensor

LIMIT = 2_000_000
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class FakeServer(attention_pb2_grpc.AttentionServiceServicer):
    """Echoes `query`; the name of the model says how else to behave."""

    def __init__(self):
        self.calls = 0
        self.blocks = 0  # sent by AttendRows
        self.metadata = {}
        self.request = None  # the last one of Attend
        self.health = SERVING
        self.entered = threading.Event()  # a call of model "wait" has arrived
        self.release = threading.Event()  # lets it go on
        self.cancelled = threading.Event()  # it was cancelled
        self.target, self.server = "", None
        self.streams = 0
        self.peers = set()
        self.messages = []  # of streams: how many requests each carried
        self.cancelled_ids = []
        self.timeouts_us = []

    def Attend(self, request, context):
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        self.request = request
        match request.model:
            case "twice-unavailable" if self.calls <= 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
            case "wait":
                context.add_callback(self.cancelled.set)
                self.entered.set()
                self.release.wait(30)
            case "fails":
                context.abort(grpc.StatusCode.INTERNAL, "internal error")
        every_row = list(range(request.query.shape[-2]))
        response = self._respond(request, every_row, request.attn_weights.queries or every_row)
        if request.model == "no-array":
            response.output.data = b"?"
        if request.model == "large":
            response.output.data = bytes(2 * LIMIT)
        return response

    def AttendRows(self, request, context):
        """Send two rows in a block unless the request says otherwise."""
        self.calls += 1
        call = request.call
        context.add_callback(self.cancelled.set)
        rows = list(call.attn_weights.queries) or list(range(call.query.shape[-2]))
        step = request.rows_per_block or 2
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            block = self._respond(call, some, some)
            if call.model == "no-array":
                block.output.data = b"?"
            yield pb.AttendRowsResponse(first_row=first, block=block)
            self.blocks += 1
            if call.model == "fails":
                context.abort(grpc.StatusCode.INTERNAL, "internal error")
            if call.model == "wait":
                self.entered.set()
                self.release.wait(30)

    def AttendStream(self, messages, context):
        """Answer each message with one, as the names of its requests' models say; later replies
        come first."""
        self.streams += 1
        self.metadata = dict(context.invocation_metadata())
        self.peers.add(context.peer())
        for message in messages:
            self.messages.append(len(message.requests))
            self.cancelled_ids += message.cancelled_ids
            self.timeouts_us += [request.timeout_us for request in message.requests]
            self.calls += len(message.requests)
            models = {request.call.model for request in message.requests}
            if "breaks" in models or ("breaks-twice" in models and self.streams <= 2):
                context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
            if "renews" in models or ("renews-twice" in models and self.streams <= 2):
                return
            if "malformed" in models:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such message")
            if "wait" in models:
                context.add_callback(self.cancelled.set)
                self.entered.set()
                self.release.wait(30)
            replies = [self._reply(r) for r in message.requests if r.call.model != "silent"]
            yield pb.AttendStreamResponse(replies=reversed(replies))

    def _reply(self, request):
        call = request.call
        every_row = list(range(call.query.shape[-2]))
        if call.model == "fails":
            error = pack(
                grpc.StatusCode.INVALID_ARGUMENT,
                "query.shape: got another",
                errors_pb2.ErrorInfo(reason="SHAPE_MISMATCH", metadata={"got": "3"}),
            )
            return pb.StreamedReply(id=request.id, error=error)
        if call.model == "nothing":
            return pb.StreamedReply(id=request.id)
        response = self._respond(call, every_row, call.attn_weights.queries or every_row)
        if call.model == "no-array":
            response.output.data = b"?"
        return pb.StreamedReply(id=request.id, response=response)

    def _respond(self, request, rows, weights_rows):
        """Echo these rows of the query. Two heads, as far as they were selected: the first
        attends to all keys equally, the second to the first key alone."""
        response = pb.AttendResponse(request_id=request.request_id)
        if not request.omit_output:
            response.output.CopyFrom(to_tensor(np.take(to_array(request.query), rows, axis=-2)))
        if not request.HasField("attn_weights"):
            return response
        wanted = request.attn_weights
        kv_seq_len = (request.key if request.HasField("key") else request.query).shape[-2]
        heads = np.array([np.full(kv_seq_len, 1 / kv_seq_len), np.eye(kv_seq_len)[0]], np.float32)
        heads = heads[[head % 2 for head in wanted.heads] or [0, 1]]
        if wanted.average_heads:
            heads = heads.mean(axis=0, keepdims=True)
        top_keys = np.argsort(-heads, axis=-1, kind="stable")[..., : wanted.top_k or None]
        if wanted.top_k:
            heads = np.take_along_axis(heads, top_keys, axis=-1)
        shape = (request.query.shape[0], len(heads), len(weights_rows), heads.shape[-1])
        weights = np.broadcast_to(heads[:, None], shape)
        response.attn_weights.CopyFrom(to_tensor(weights, wanted.dtype or None))
        if wanted.top_k:
            top_keys = np.broadcast_to(top_keys[:, None].astype(np.int32), shape)
            response.top_keys.CopyFrom(to_tensor(top_keys))
        return response

    def Forward(self, request, context):
        """Answer as fake_whole's models do; the request's id says how else to behave."""
        self.calls += 1
        self.request = request
        self.metadata = dict(context.invocation_metadata())
        if request.request_id == "wait":
            context.add_callback(self.cancelled.set)
            self.entered.set()
            self.release.wait(30)
        if request.request_id == "fails":
            context.abort(grpc.StatusCode.INTERNAL, "internal error")
        return fake_whole.forward(request)

    def ListModels(self, request, context):
        return pb.ListModelsResponse(models=[pb.Model(name="a", version=1), pb.Model(name="b")])

    def GetModel(self, request, context):
        if request.name in fake_whole.STACKS:
            return pb.GetModelResponse(model=fake_whole.describe(request.name))
        spec = pb.AttentionSpec(num_heads=2)
        model = pb.Model(name=request.name, version=request.version, spec=spec)
        return pb.GetModelResponse(model=model)

    def GetServerInfo(self, request, context):
        return pb.GetServerInfoResponse(version="9")


def pack(code, message, *details):
    """Make the status of a failure, with its details."""
    status = errors_pb2.RpcStatus(code=code.value[0], message=message)
    for detail in details:
        url = f"type.googleapis.com/google.rpc.{detail.DESCRIPTOR.name}"
        status.details.append(Any(type_url=url, value=detail.SerializeToString()))
    return status


class RawMethods(grpc.GenericRpcHandler):
    """The health service."""

    def __init__(self, fake):
        self._fake = fake

    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: self._fake.health)
        return None


def start(fake, address="127.0.0.1:0", *, limit=LIMIT):
    server = grpc.server(
        futures.ThreadPoolExecutor(16),
        handlers=[RawMethods(fake)],
        options=[
            ("grpc.max_receive_message_length", 2 * limit),
            ("grpc.max_send_message_length", LIMIT),
            ("grpc.so_reuseport", 0),
        ],
    )
    attention_pb2_grpc.add_AttentionServiceServicer_to_server(fake, server)
    port = server.add_insecure_port(address)
    server.start()
    fake.target, fake.server = f"127.0.0.1:{port}", server
    return server
