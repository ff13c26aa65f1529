"""The inputs of whole models: texts, ids and masks give what Forward gives."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from golden import GOLDEN, WHOLE_WEIGHTS_ERRORS
from minilm import needs_minilm
from tritonclient_requests import inputs_of, outputs_of, service_pb2, service_pb2_grpc, stock
from whole_infer import IDS, MASK, RECORDED, ids_of, names_of, texts_of

from polyhead.v1 import forward_pb2 as f
from polyhead.wire.tensors import to_array, to_tensor


def assert_close(actual, expected, lengths, key_lengths=None, max_error=1e-5):
    """Compare what is no padding: rows, and of weights the keys too."""
    assert actual.shape == expected.shape
    if key_lengths is None:
        max_error = 3e-5 * np.abs(expected).max()
    for index, length in enumerate(lengths):
        columns = slice(None) if key_lengths is None else slice(key_lengths[index])
        valid = (index, ..., slice(length), columns)
        assert np.abs(actual[valid] - expected[valid]).max() < max_error


@pytest.mark.parametrize("family", RECORDED)
def test_as_recorded(triton, family):
    """With all inputs that are recorded, and all outputs that the metadata lists."""
    recorded = dict(np.load(GOLDEN / family / "whole.npz"))
    metadata = triton.get_model_metadata(family)
    listed = [tensor.name for tensor in metadata.inputs]
    if "input_ids" in listed:
        listed.append("attention_mask")
    given = {name: recorded[name] for name in listed if name in recorded}
    names = [output.name for output in metadata.outputs]
    response = triton.infer(family, inputs_of(given), outputs=outputs_of("lengths", *names))
    assert names_of(response) == ["lengths", *names]
    lengths = {"": response.as_numpy("lengths")}
    if "attention_mask" in given:
        assert lengths[""].tolist() == given["attention_mask"].sum(-1).tolist()
    if "decoder_input_ids" in given:
        batch_size, decoder_len = given["decoder_input_ids"].shape
        lengths["decoder"] = lengths["cross"] = np.full(batch_size, decoder_len)
    for name in names:
        kind, *stack, number = name.split(".") if "." in name else (name, "")
        prefix = f"{stack[0]}_" if stack else ""
        key, rows = f"{prefix}hidden_states.{number}", lengths.get(*stack or [""], lengths[""])
        key_lengths = None
        if kind == "output":
            key, rows = "last_hidden_state", lengths.get("decoder", lengths[""])
            if key not in recorded:  # of one of two towers
                key = "text_last_hidden_state"
        elif kind == "attn_weights":
            key = f"{prefix}attentions.{number}"
            key_lengths = lengths[""] if stack == ["cross"] else rows
        elif name.replace("hidden_states", "attn_weights") not in names:
            continue  # after the last layer transformers records what the final norm makes of it
        max_error = WHOLE_WEIGHTS_ERRORS.get(family, 1e-5)
        assert_close(response.as_numpy(name), recorded[key], rows, key_lengths, max_error)


@needs_minilm
@pytest.mark.parametrize("matrix", [False, True])
def test_texts_of_a_real_model(triton, matrix):
    recorded = np.load(GOLDEN / "minilm_whole.npz")
    names = "tokens", "lengths", "output", "hidden_states.3", "attn_weights.0"
    given = texts_of(*map(str, recorded["sentences"]), matrix=matrix)
    response = triton.infer("minilm", given, outputs=outputs_of(*names))
    lengths = recorded["attention_mask"].sum(-1)
    assert response.as_numpy("lengths").tolist() == lengths.tolist()
    tokens = response.as_numpy("tokens")
    for row, expected, length in zip(tokens, recorded["tokens"], lengths, strict=True):
        assert [token.decode() for token in row[:length]] == expected[:length].tolist()
    assert_close(response.as_numpy("hidden_states.3"), recorded["hidden_states.3"], lengths)
    weights = response.as_numpy("attn_weights.0")
    assert_close(weights, recorded["attentions.0"], lengths, lengths)


def test_output_alone_is_the_default(triton, forward):
    response = triton.infer("bert", ids_of(), request_id="r-1")
    assert names_of(response) == ["output"]
    assert (response.get_response().id, response.get_response().model_version) == ("r-1", "1")
    expected = forward(f.ForwardRequest(model="bert", token_ids=to_tensor(IDS), lengths=[4, 3]))
    np.testing.assert_array_equal(response.as_numpy("output"), to_array(expected.output))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("mask", [None, MASK])
def test_ids_with_and_without_a_mask(triton, forward, dtype, mask):
    given = ids_of(IDS.astype(dtype), None if mask is None else mask.astype(dtype))
    response = triton.infer("bert", given, outputs=outputs_of("output", "lengths"))
    lengths = [4, 4] if mask is None else [4, 3]
    request = f.ForwardRequest(model="bert", token_ids=to_tensor(IDS), lengths=lengths)
    expected = to_array(forward(request).output)
    np.testing.assert_array_equal(response.as_numpy("output"), expected)
    assert response.as_numpy("lengths").tolist() == lengths


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("model", ["bert", "roberta"])
def test_types_of_zero_change_nothing(triton, model, dtype):
    expected = triton.infer(model, ids_of()).as_numpy("output")
    given = ids_of() + inputs_of({"token_type_ids": np.zeros(IDS.shape, dtype)})
    np.testing.assert_array_equal(triton.infer(model, given).as_numpy("output"), expected)


def test_types_give_what_forward_gives(triton, forward):
    types = np.array([[0, 0, 1, 1], [0, 1, 1, 9]], np.int32)  # the last one is padding
    given = ids_of() + inputs_of({"token_type_ids": types})
    output = triton.infer("bert", given).as_numpy("output")
    request = f.ForwardRequest(
        model="bert",
        token_ids=to_tensor(IDS),
        token_type_ids=to_tensor(types),
        lengths=[4, 3],
    )
    np.testing.assert_array_equal(output, to_array(forward(request).output))
    assert (output != triton.infer("bert", ids_of()).as_numpy("output")).any()


@pytest.mark.parametrize("matrix", [False, True])
def test_two_texts_give_what_forward_gives(triton, forward, matrix):
    texts, pairs = ["the bank of the river", "river"], ["the river", "the bank"]
    given = texts_of(*texts, matrix=matrix) + texts_of(*pairs, matrix=matrix, name="text_pair")
    response = triton.infer("texts", given, outputs=outputs_of("output", "tokens"))
    expected = forward(f.ForwardRequest(model="texts", texts=texts, text_pairs=pairs))
    np.testing.assert_array_equal(response.as_numpy("output"), to_array(expected.output))
    tokens = response.as_numpy("tokens").tolist()
    assert tokens[1][:5] == [b"[CLS]", b"river", b"[SEP]", b"the", b"bank"]


@pytest.mark.parametrize("matrix", [False, True])
def test_texts(triton, matrix):
    names = "tokens", "input_ids", "lengths", "output", "attn_weights.1"
    given = texts_of("the bank of the river", "river bank", matrix=matrix)
    response = triton.infer("texts", given, outputs=outputs_of(*names))
    assert names_of(response) == [*names]
    tokens = response.as_numpy("tokens").tolist()
    assert tokens[0] == [b"[CLS]", b"the", b"bank", b"of", b"the", b"river", b"[SEP]"]
    assert tokens[1] == [b"[CLS]", b"river", b"bank", b"[SEP]", b"", b"", b""]
    ids = response.as_numpy("input_ids")
    assert ids.dtype == np.int64
    assert ids.tolist() == [[2, 4, 5, 6, 4, 7, 3], [2, 7, 5, 3, 0, 0, 0]]
    lengths = response.as_numpy("lengths")
    assert lengths.tolist() == [7, 4]
    mask = (np.arange(7) < lengths[:, None]).astype(np.int64)
    from_ids = triton.infer("texts", ids_of(ids, mask), outputs=outputs_of(*names[3:]))
    for name in names[3:]:
        np.testing.assert_array_equal(response.as_numpy(name), from_ids.as_numpy(name))


def test_tokens_alone(triton):
    """They need no layer, and no output of the model."""
    response = triton.infer("texts", texts_of("the river"), outputs=outputs_of("input_ids"))
    assert response.as_numpy("input_ids").tolist() == [[2, 4, 7, 3]]


def test_long_texts_are_truncated_on_request(triton):
    given, wanted = texts_of("river " * 100), outputs_of("lengths")
    with pytest.raises(stock.InferenceServerException) as caught:
        triton.infer("texts", given, outputs=wanted)
    assert "text[0]: has 102 tokens, and the model takes 64" in caught.value.message()
    response = triton.infer("texts", given, outputs=wanted, parameters={"truncate": True})
    assert response.as_numpy("lengths").tolist() == [64]


def test_typed_contents(served):
    with grpc.insecure_channel(served.target) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        request = service_pb2.ModelInferRequest(model_name="texts")
        request.inputs.add(name="text", datatype="BYTES", shape=[1])
        request.inputs[0].contents.bytes_contents.append(b"the river")
        request.outputs.add(name="input_ids")
        response = infer(request)
    ids = np.frombuffer(response.raw_output_contents[0], np.int64)
    assert ids.tolist() == [2, 4, 7, 3]
