"""How long sequences may be, what `truncate` cuts, and what the contract says of it."""

import json
import shutil

import numpy as np
import pytest
from golden import GOLDEN
from whole_infer import tokenizer_json

import polyhead
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

WITH_TEXT = {
    "bert": {"model_max_length": 6, "truncation_side": "left"},
    "llama": {"model_max_length": 5},
    "bloom": {},
}
"""What tokenizer_config.json says, by model."""
LONG = "the bank of the river " * 20


def tokenizer_of_40_words():
    """A tokenizer with as many words as the models have, and a special token beside them."""
    tokenizer = json.loads(tokenizer_json())
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"[unused{number}]": number for number in range(len(vocab), 40)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = {"id": 40, "content": "<image>", "special": True, **flags}
    return json.dumps(tokenizer | {"added_tokens": [special]})


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a server of models with and without text."""
    folder = tmp_path_factory.mktemp("lengths")
    for name in (*WITH_TEXT, "dinov2", "phi3-longrope-long"):
        checkpoint = shutil.copytree(GOLDEN / name, folder / name)
        if name in WITH_TEXT:
            (checkpoint / "tokenizer.json").write_text(tokenizer_of_40_words())
            (checkpoint / "tokenizer_config.json").write_text(json.dumps(WITH_TEXT[name]))
        export_whole_model(Checkpoint.open(checkpoint), name, folder / "models")
    with (
        running_server(folder / "models", threads=1) as server,
        polyhead.Client(server.target) as client,
    ):
        yield client


def test_learned_positions_are_a_hard_limit(client):
    whole = client.model("bert").whole
    assert (whole.stacks[0].max_length, whole.stacks[0].trained_length) == (64, 6)
    assert whole.truncation_side == "left"
    with pytest.raises(
        polyhead.InvalidArgumentError, match="has 102 tokens, and the model takes 64"
    ):
        client.forward(LONG, model="bert")
    assert client.forward("the bank of the river bank", model="bert").output.shape[1] == 8
    cut = client.forward(LONG, model="bert", truncate=True)
    assert cut.tokens == [["[CLS]", "bank", "of", "the", "river", "[SEP]"]]


def test_rotary_positions_run_beyond_the_stated_length(client):
    whole = client.model("llama").whole
    assert (whole.stacks[0].max_length, whole.stacks[0].trained_length) == (0, 5)
    assert client.forward(LONG, model="llama").output.shape[1] == 102
    cut = client.forward([LONG, "the bank"], model="llama", truncate=True)
    assert cut.tokens == [
        ["[CLS]", "the", "bank", "of", "[SEP]"],
        ["[CLS]", "the", "bank", "[SEP]"],
    ]


def test_nothing_is_cut_where_no_length_is_stated(client):
    (stack,) = client.model("bloom").whole.stacks
    assert (stack.max_length, stack.trained_length) == (0, 0)
    assert client.forward(LONG, model="bloom", truncate=True).output.shape[1] == 102


def test_a_special_token_without_a_row_is_refused_in_the_text_that_has_it(client):
    with pytest.raises(polyhead.InvalidArgumentError, match=r"text\[1\].* 0 to 39; got 40"):
        client.forward(["the bank", "the <image>"], model="bert")


def test_images_of_any_size_are_described(client):
    whole = client.model("dinov2").whole
    (stack,) = whole.stacks
    assert (stack.input_shape, stack.patch_size) == ((3, 0, 0), (7, 7))
    assert (stack.num_image_tokens, whole.truncation_side) == (1, "")
    for height, width in ((7, 7), (13, 22), (28, 14)):
        pixels = np.zeros((1, 3, height, width), np.float32)
        output = client.forward(pixel_values=pixels, model="dinov2").output
        assert output.shape[1] == stack.num_image_tokens + (height // 7) * (width // 7)


def test_longrope_goes_by_each_sequence_alone(client):
    (stack,) = client.model("phi3-longrope-long").whole.stacks
    rotary = stack.layers[0].self_attention.rotary
    assert rotary.original_max_positions == 16
    assert len(rotary.pair_frequencies) == len(rotary.long_pair_frequencies) == rotary.dim // 2
    assert rotary.pair_frequencies != rotary.long_pair_frequencies
    ids = np.random.default_rng(0).integers(3, 40, (2, 17))
    both = client.forward(token_ids=ids, lengths=[17, 16], model="phi3-longrope-long").output
    short = client.forward(token_ids=ids[1:, :16], model="phi3-longrope-long").output
    np.testing.assert_allclose(both[1:, :16], short, atol=1e-5)
    long = client.forward(token_ids=ids[1:], model="phi3-longrope-long").output
    assert np.abs(long[:, :16] - short).max() > 0.01


def test_frequencies_that_other_fields_give_are_left_out(client):
    rotary = client.model("llama").whole.stacks[0].layers[0].self_attention.rotary
    assert (rotary.scaling, rotary.attention_factor) == ("none", 1.0)
    assert rotary.pair_frequencies == rotary.long_pair_frequencies == ()
