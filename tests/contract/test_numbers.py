"""Attend, AttendRows, AttendStream and Forward give what the float64 reference gives."""

from __future__ import annotations

import numpy as np
import pytest
from tests.contract import models
from tests.contract.arrays import assert_output, assert_weights, draw

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import forward_pb2
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_models.reference import attention as reference

TIMEOUT_S = 30


def arguments_of(name):
    config = models.CONFIGURATIONS[name]
    arguments = {"query": draw(2, 5, config.embed_dim)}
    if config.kdim != config.embed_dim:
        arguments |= {"key": draw(2, 7, config.kdim), "value": draw(2, 7, config.vdim)}
    return arguments


@pytest.mark.parametrize("name", models.CONFIGURATIONS)
def test_attend(stub, name):
    arguments = arguments_of(name)
    tensors = {field: to_tensor(array) for field, array in arguments.items()}
    request = pb.AttendRequest(model=name, attn_weights=pb.AttnWeightsSelection(), **tensors)
    response = stub.Attend(request, timeout=TIMEOUT_S)
    output, weights = reference.attend(models.blocks()[name], **arguments)
    assert_output(to_array(response.output), output)
    assert_weights(to_array(response.attn_weights), weights)
    assert (response.execution.model, response.execution.model_version) == (name, 1)


def test_masks_and_lengths(stub):
    query, mask = draw(2, 5, 16), np.arange(25).reshape(5, 5) % 3 > 0
    request = pb.AttendRequest(
        model="contract-plain",
        query=to_tensor(query),
        attn_mask=to_tensor(mask),
        kv_lengths=[5, 2],
        attn_weights=pb.AttnWeightsSelection(),
    )
    response = stub.Attend(request, timeout=TIMEOUT_S)
    allowed = mask & (np.arange(5) < np.array([5, 2])[:, None, None, None])
    block = models.blocks()["contract-plain"]
    output, weights = reference.attend(block, query, attn_mask=allowed)
    assert_output(to_array(response.output), output)
    assert_weights(to_array(response.attn_weights), weights)


def test_selected_weights(stub):
    query = draw(2, 5, 16)
    selection = pb.AttnWeightsSelection(heads=[2, 0], queries=[4], top_k=3)
    request = pb.AttendRequest(
        model="contract-plain", query=to_tensor(query), attn_weights=selection, omit_output=True
    )
    response = stub.Attend(request, timeout=TIMEOUT_S)
    _, weights = reference.attend(models.blocks()["contract-plain"], query)
    expected = -np.sort(-weights[:, [2, 0]][:, :, [4]])[..., :3]
    assert not response.HasField("output")
    assert_weights(to_array(response.attn_weights), expected)
    keys = to_array(response.top_keys)
    at_keys = np.take_along_axis(weights[:, [2, 0]][:, :, [4]], keys.astype(np.int64), -1)
    assert_weights(at_keys, expected)


def test_rows(stub):
    query = draw(2, 11, 32)
    call = pb.AttendRequest(
        model="contract-causal", query=to_tensor(query), attn_weights=pb.AttnWeightsSelection()
    )
    request = pb.AttendRowsRequest(call=call, rows_per_block=4)
    blocks = list(stub.AttendRows(request, timeout=TIMEOUT_S))
    output, weights = reference.attend(models.blocks()["contract-causal"], query)
    assert [block.first_row for block in blocks] == [0, 4, 8]
    assert_output(np.concatenate([to_array(each.block.output) for each in blocks], 1), output)
    got = np.concatenate([to_array(each.block.attn_weights) for each in blocks], 2)
    assert_weights(got, weights)


def test_a_stream_of_requests(stub):
    queries = {number: draw(1, number, 16, seed=number) for number in range(1, 9)}

    def messages():
        for numbers in ([1, 2, 3], [4], [5, 6, 7, 8]):
            requests = [
                pb.StreamedRequest(
                    id=number,
                    call=pb.AttendRequest(model="contract-plain", query=to_tensor(queries[number])),
                )
                for number in numbers
            ]
            yield pb.AttendStreamRequest(requests=requests)
        failing = pb.AttendRequest(model="contract-plain", query=to_tensor(draw(1, 2, 15)))
        yield pb.AttendStreamRequest(requests=[pb.StreamedRequest(id=99, call=failing)])

    replies = {
        reply.id: reply
        for message in stub.AttendStream(messages(), timeout=TIMEOUT_S)
        for reply in message.replies
    }
    assert set(replies) == {*queries, 99}
    assert "query.shape" in replies.pop(99).error.message
    for number, reply in replies.items():
        expected, _ = reference.attend(models.blocks()["contract-plain"], queries[number])
        assert_output(to_array(reply.response.output), expected)


def test_a_whole_model(stub):
    ids = np.array([[5, 9, 2, 7], [1, 3, 8, 4]], np.int64)
    request = forward_pb2.ForwardRequest(
        model="contract-bert",
        token_ids=to_tensor(ids),
        all_hidden_states=True,
        attn_weights=[forward_pb2.LayerWeights()],
    )
    response = stub.Forward(request, timeout=TIMEOUT_S)
    entering = [to_array(each.hidden_states) for each in response.hidden_states]
    assert len(entering) == len(response.attn_weights) + 1
    for block, states, weights in zip(
        models.bert_blocks(), entering[:2], response.attn_weights, strict=False
    ):
        _, expected = reference.attend(block, states)
        assert_weights(to_array(weights.attn_weights), expected)


def test_a_block_of_a_whole_model(stub):
    query = draw(1, 4, models.bert_blocks()[1].config.embed_dim)
    request = pb.AttendRequest(
        model="contract-bert", query=to_tensor(query), layer=forward_pb2.LayerRef(layer=1)
    )
    output, _ = reference.attend(models.bert_blocks()[1], query)
    assert_output(to_array(stub.Attend(request, timeout=TIMEOUT_S).output), output)
