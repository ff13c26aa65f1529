"""ForwardRequests, read and planned by the server."""

from __future__ import annotations

import numpy as np
from tests.fuzz import readings
from tests.fuzz.served import SETTINGS, repository

from polyhead.v1 import forward_pb2 as pb
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.codec.forward import read_forward_call
from polyhead_server.errors import RequestError
from polyhead_server.planning.forward.plan import plan_forward

__all__ = ["check", "seeds"]


def check(data):
    try:
        call = read_forward_call(data)
    except RequestError:
        return
    _compare(call, readings.parsed(pb.ForwardRequest, data))
    try:
        model = repository().whole(call.model, call.model_version)
        for _ in plan_forward(call, model, SETTINGS):
            pass
    except RequestError:
        return


def seeds():
    ids = to_tensor(np.array([[2, 4, 5, 3], [2, 5, 3, 0]]))
    wanted = pb.LayerWeights(
        layer=pb.LayerRef(stack="encoder", layer=1, kind="self"), query_words=["bank"]
    )
    wanted.selection.top_k = 2
    requests = [
        pb.ForwardRequest(model="bert", texts=["the river", "the bank of"], attn_weights=[wanted]),
        pb.ForwardRequest(model="bert", texts=["bank " * 40], truncate=True, request_id="r"),
        pb.ForwardRequest(
            model="bert", texts=["the river"], text_pairs=["bank " * 40], attn_weights=[wanted]
        ),
        pb.ForwardRequest(
            model="bert",
            token_ids=ids,
            token_type_ids=to_tensor(np.array([[0, 0, 1, 1], [0, 1, 1, 9]], np.int32)),
            lengths=[4, 3],
        ),
        pb.ForwardRequest(
            model="bert", token_ids=ids, lengths=[4, 3], all_hidden_states=True, omit_output=True
        ),
        pb.ForwardRequest(
            model="bert",
            hidden_states=to_tensor(np.ones((1, 3, 32), np.float16)),
            first_layer=pb.LayerRef(layer=1),
            last_layer=1,
            hidden_states_wanted=[pb.LayerRef(layer=1)],
            output_dtype=10,
        ),
    ]
    return [request.SerializeToString() for request in requests]


def _compare(call, message):
    assert message is not None
    assert (call.model, call.model_version) == (message.model, message.model_version)
    assert call.request_id == message.request_id
    assert call.texts == tuple(message.texts)
    assert call.text_pairs == tuple(message.text_pairs)
    assert call.lengths["lengths"] == tuple(message.lengths)
    assert [own.selection.top_k for own in call.weights] == [
        own.selection.top_k for own in message.attn_weights
    ]
    arrays = {name: to_array(getattr(message, name)) for name in call.arrays}
    readings.assert_equal_arrays(call.arrays, arrays)
