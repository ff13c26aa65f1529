"""A server that fails as it is told to, for what no healthy server shows."""

from __future__ import annotations

import threading
from concurrent import futures

import grpc
import numpy as np

from polyhead.tensors import fill_tensor, to_array, to_tensor
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc

LIMIT = 2_000_000
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class FakeServer(attention_pb2_grpc.AttentionServiceServicer):
    """Echoes `query`; the name of the model says how else to behave."""

    def __init__(self):
        self.calls = 0
        self.metadata = {}
        self.health = SERVING
        self.entered = threading.Event()  # a call of model "wait" has arrived
        self.release = threading.Event()  # lets it go on
        self.cancelled = threading.Event()  # it was cancelled
        self.target = ""

    def Attend(self, request, context):
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        output = to_tensor(to_array(request.query))
        match request.model:
            case "twice-unavailable" if self.calls <= 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
            case "wait":
                context.add_callback(self.cancelled.set)
                self.entered.set()
                self.release.wait(30)
            case "no-array":
                output.data = b"?"
            case "large":
                output.data = bytes(2 * LIMIT)
            case "fails":
                context.abort(grpc.StatusCode.INTERNAL, "internal error")
        response = pb.AttendResponse(request_id=request.request_id, output=output)
        if request.HasField("attn_weights"):
            fill_tensor(response.attn_weights, self._uniform_weights(request))
        return response

    def _uniform_weights(self, request):
        """Two heads that attend to everything alike, as far as they were selected."""
        batch_size, q_seq_len, _ = request.query.shape
        heads = len(request.attn_weights.heads) or 2
        queries = len(request.attn_weights.queries) or q_seq_len
        return np.full((batch_size, heads, queries, q_seq_len), 1 / q_seq_len, np.float32)

    def ListModels(self, request, context):
        return pb.ListModelsResponse(models=[pb.Model(name="a", version=1), pb.Model(name="b")])

    def GetModel(self, request, context):
        return pb.GetModelResponse(model=pb.Model(name=request.name, version=request.version))

    def GetServerInfo(self, request, context):
        return pb.GetServerInfoResponse(version="9")


class RawMethods(grpc.GenericRpcHandler):
    """The health service."""

    def __init__(self, fake):
        self._fake = fake

    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: self._fake.health)
        return None


def start(fake, address="127.0.0.1:0"):
    server = grpc.server(
        futures.ThreadPoolExecutor(16),
        handlers=[RawMethods(fake)],
        options=[
            ("grpc.max_receive_message_length", 2 * LIMIT),
            ("grpc.max_send_message_length", LIMIT),
            ("grpc.so_reuseport", 0),
        ],
    )
    attention_pb2_grpc.add_AttentionServiceServicer_to_server(fake, server)
    port = server.add_insecure_port(address)
    server.start()
    fake.target = f"127.0.0.1:{port}"
    return server
