"""ModelInferRequests, read and planned by the server: for a block, a graph and a whole model."""

from __future__ import annotations

import struct
from types import SimpleNamespace

from tests.fuzz.served import SETTINGS, repository

from polyhead_server.errors import RequestError
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.planning.plan_cache import PlanCache
from polyhead_server.services.oip.infer_format import INFER
from polyhead_server.services.oip.request import InferPreparer

__all__ = ["check", "seeds"]

_Input = pb.ModelInferRequest.InferInputTensor
_Output = pb.ModelInferRequest.InferRequestedOutputTensor


def check(data):
    models = repository()
    prepare = InferPreparer(models, SETTINGS)
    plans = PlanCache(INFER, prepare, SimpleNamespace(version=models.version))
    read = []
    for _ in range(2):  # once when its template is new, once when it is known
        try:
            match = plans.match(data, log_fields={})
            request = match.value.request(match)
            read.append(_values_of(request))
        except RequestError as error:
            read.append(error.reason)
    assert str(read[0]) == str(read[1])


def seeds():
    texts = pb.InferTensorContents(bytes_contents=[b"the river", b"bank"])
    floats = pb.InferTensorContents(fp32_contents=[0.5] * 12)
    graph = {
        "strings": ("BYTES", (struct.pack("<I", 2) + b"ab") * 4),
        "bools": ("BOOL", b"\1\0\1\0"),
        "halves": ("FP16", bytes(8)),
        "floats": ("FP32", bytes(16)),
        "longs": ("INT64", bytes(32)),
    }
    requests = [
        pb.ModelInferRequest(
            model_name="graph",
            id="r",
            inputs=[
                _Input(name=name, datatype=datatype, shape=[2, 2])
                for name, (datatype, _) in graph.items()
            ],
            raw_input_contents=[content for _, content in graph.values()],
        ),
        pb.ModelInferRequest(
            model_name="river-bank",
            inputs=[_Input(name="query", datatype="FP32", shape=[1, 2, 6], contents=floats)],
            outputs=[_Output(name="attn_weights")],
        ),
        pb.ModelInferRequest(
            model_name="bert",
            inputs=[_Input(name="text", datatype="BYTES", shape=[2], contents=texts)],
            outputs=[_Output(name="last_hidden_state")],
        ),
        pb.ModelInferRequest(
            model_name="bert",
            model_version="1",
            inputs=[
                _Input(name="input_ids", datatype="INT64", shape=[1, 3]),
                _Input(name="attention_mask", datatype="INT32", shape=[1, 3]),
            ],
            raw_input_contents=[struct.pack("<3q", 2, 4, 3), struct.pack("<3i", 1, 1, 1)],
        ),
    ]
    requests[1].parameters["heads"].string_param = "0"
    requests[1].parameters["top_k"].int64_param = 1
    requests[1].parameters["timeout"].uint64_param = 1_000_000
    requests[2].parameters["queries"].string_param = "bank,1"
    return [request.SerializeToString() for request in requests]


def _values_of(request):
    """Return all that is read of a request."""
    if hasattr(request, "read"):  # one to a whole model
        return request.read()
    return request.arrays()
