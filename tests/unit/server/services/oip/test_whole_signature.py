"""The inputs and outputs of models of two stacks, by the protocol's names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from polyhead_models.config import AttentionConfig
from polyhead_models.whole_config import Stack, Sublayer, WholeConfig
from polyhead_server.errors import InvalidRequestError
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.services.oip.whole.inputs import RequestInputs
from polyhead_server.services.oip.whole.outputs import RequestedOutputs
from polyhead_server.services.oip.whole.signature import inputs_of, outputs_of

BLOCK = AttentionConfig(embed_dim=8, num_heads=2)


STATES = ["hidden_states", "attention_mask"]
MEMORY = ["encoder_hidden_states", "encoder_attention_mask"]


def stack(name, kinds=("self",), *, embed=0, **more):
    """``embed``: number of the stack's first segment, which the others follow."""
    layer = tuple(
        Sublayer(kind=kind, attention=number, leave=number + 1, block=BLOCK)
        for kind, number in zip(kinds, (embed + 1, embed + 3), strict=False)
    )
    fields = {"input": "token_ids", "hidden_size": 8, "output_size": 8, **more}
    fields.setdefault("vocab_size", int(fields["input"] == "token_ids"))
    return Stack(name=name, layers=(layer,), embed=embed, **fields)


DECODER = stack("decoder", ("self", "cross"), embed=3)


def model_of(*stacks, tokenizer=None):
    return SimpleNamespace(config=WholeConfig(stacks=stacks), tokenizer=tokenizer)


PAIR = model_of(stack("encoder"), DECODER, tokenizer="one")
SPEECH = model_of(
    stack("encoder", input="input_features", input_shape=(8, 0)),
    DECODER,
    tokenizer="one",
)
TOWERS = model_of(
    stack("text"),
    stack("vision", embed=3, input="pixel_values", input_shape=(3, 4, 4), output_size=6),
    tokenizer="one",
)


def request_of(outputs=(), **shapes):
    request = pb.ModelInferRequest()
    for name, shape in shapes.items():
        datatype = {"text": "BYTES", "pixel_values": "FP16", "input_features": "FP32"}
        datatype |= dict.fromkeys(["hidden_states", "encoder_hidden_states"], "FP32")
        request.inputs.add(name=name, datatype=datatype.get(name, "INT32"), shape=shape)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def listed(specs, *, optional):
    return [name for name, each in specs.items() if each.spec.is_optional == optional]


@pytest.mark.parametrize(
    ("model", "required", "optional"),
    [
        (
            PAIR,
            ["text", "decoder_input_ids"],
            ["text_pair", "input_ids", "decoder_attention_mask", *STATES, *MEMORY],
        ),
        (
            SPEECH,
            ["input_features", "decoder_input_ids"],
            ["decoder_attention_mask", *STATES, *MEMORY],
        ),
        (TOWERS, ["text"], ["text_pair", "input_ids", "pixel_values", *STATES]),
    ],
)
def test_inputs(model, required, optional):
    specs = inputs_of(model)
    assert listed(specs, optional=False) == required
    assert listed(specs, optional=True) == optional


def test_shapes_of_inputs():
    assert inputs_of(SPEECH)["input_features"].spec.shape == (-1, 8, -1)
    assert inputs_of(TOWERS)["pixel_values"].spec.shape == (-1, 3, 4, 4)


def test_outputs_of_an_encoder_and_a_decoder():
    assert listed(outputs_of(PAIR), optional=False) == [
        "output",
        "hidden_states.encoder.0",
        "hidden_states.encoder.1",
        "attn_weights.encoder.0",
        "hidden_states.decoder.0",
        "hidden_states.decoder.1",
        "attn_weights.decoder.0",
        "attn_weights.cross.0",
    ]
    assert {"tokens", "top_keys.cross.0"} <= {*listed(outputs_of(PAIR), optional=True)}
    assert "tokens" not in outputs_of(SPEECH)


def test_outputs_of_two_towers():
    """A request runs one of them."""
    specs = outputs_of(TOWERS)
    assert specs["output"].spec.shape == (-1, -1, -1)
    assert not specs["attn_weights.text.0"].spec.is_optional
    assert specs["attn_weights.vision.0"].spec.is_optional


@pytest.mark.parametrize(
    ("model", "shapes", "message"),
    [
        (
            PAIR,
            {"decoder_input_ids": [1, 2]},
            "hidden_states, or encoder_hidden_states with decoder_input_ids; got no such input",
        ),
        (SPEECH, {}, "inputs: expected one of input_features, hidden_states, or encoder_hidden_st"),
        (
            TOWERS,
            {"text": [1], "pixel_values": [1, 3, 4, 4]},
            "got text and pixel_values: a request runs one tower, so send one for each",
        ),
        (TOWERS, {"pixel_values": [1, 3, 4, 5]}, "pixel_values.shape: expected [-1, 3, 4, 4]"),
        (TOWERS, {"pixel_values": [1, 3, 4, -1]}, "pixel_values.shape: expected lengths of 0 or"),
        (SPEECH, {"text": [1]}, "inputs[0].name: expected one of input_features, decoder_input_"),
        (PAIR, {"encoder_hidden_states": [1, 2, 9], "decoder_input_ids": [1, 2]}, "encoder_hid"),
        (
            PAIR,
            {"text": [1], "decoder_attention_mask": [1, 2]},
            "decoder_attention_mask: is the mask of decoder_input_ids, which is not",
        ),
        (PAIR, {"text": [(1 << 16) + 1]}, "text.shape: expected a batch size from 1 to 65536"),
    ],
)
def test_inputs_that_do_not_fit(model, shapes, message):
    with pytest.raises(InvalidRequestError) as caught:
        RequestInputs(request_of(**shapes), model)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "shapes", "output", "needed"),
    [
        (PAIR, {"text": [1]}, "attn_weights.cross.0", "decoder_input_ids"),
        (
            PAIR,
            {"encoder_hidden_states": [1, 2, 8], "decoder_input_ids": [1, 2]},
            "attn_weights.encoder.0",
            "text or input_ids",
        ),
        (PAIR, {"text": [1]}, "hidden_states.decoder.1", "decoder_input_ids"),
        (TOWERS, {"text": [1]}, "hidden_states.vision.0", "pixel_values"),
        (TOWERS, {"pixel_values": [1, 3, 4, 4]}, "attn_weights.text.0", "text or input_ids"),
        (TOWERS, {"pixel_values": [1, 3, 4, 4]}, "tokens", "text"),
    ],
)
def test_outputs_of_stacks_that_do_not_run(model, shapes, output, needed):
    request = request_of([output], **shapes)
    with pytest.raises(InvalidRequestError) as caught:
        RequestedOutputs(request, model, RequestInputs(request, model))
    assert str(caught.value) == (
        f"outputs[0].name: '{output}' needs the input {needed}, which is not given"
    )


def test_a_decoder_that_runs_gives_its_outputs():
    request = request_of(["attn_weights.cross.0", "output"], text=[2, 1], decoder_input_ids=[2, 3])
    wanted = RequestedOutputs(request, PAIR, RequestInputs(request, PAIR))
    assert wanted.need_output
    [weights] = wanted.weights
    assert weights.layer == ("decoder", 0, "cross")
