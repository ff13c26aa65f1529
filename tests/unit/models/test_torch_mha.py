"""Imports of torch.nn.MultiheadAttention, compared with recorded results of torch."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from polyhead_models.checkpoint.files import CheckpointError
from polyhead_models.reference.attention import attend
from polyhead_models.torch_mha import load_torch_mha


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("packed", {"num_heads": 4}),
        ("separate", {"num_heads": 2}),
        ("no_bias", {"num_heads": 3}),
        ("causal", {"num_heads": 4, "is_causal": True}),
        ("decoder_layer", {"num_heads": 4, "prefix": "multihead_attn"}),
        ("decoder_layer", {"num_heads": 4, "prefix": "multihead_attn."}),
    ],
)
def test_as_recorded(data, case, arguments, assert_attends_as):
    block = load_torch_mha(data / "torch_mha" / f"{case}.safetensors", **arguments)
    with np.load(data / "torch_mha" / f"{case}.npz") as call:
        attended = attend(block, call["query"], call["key"], call["value"])
        assert_attends_as(attended, call["output"], call["attn_weights"])


def test_configuration_and_provenance(data):
    block = load_torch_mha(data / "torch_mha" / "separate.safetensors", num_heads=2)
    assert (block.config.embed_dim, block.config.kdim, block.config.vdim) == (16, 12, 20)
    assert not block.config.is_causal
    assert block.provenance.source == "torch separate.safetensors"
    assert block.provenance.family == "torch.nn.MultiheadAttention"
    assert block.provenance.layer == ""
    assert block.provenance.weights_sha256 == block.weights_sha256()


def test_no_bias(data):
    block = load_torch_mha(data / "torch_mha" / "no_bias.safetensors", num_heads=3)
    assert not any(name.endswith(".bias") for name in block.weights)


@pytest.fixture
def module(data, tmp_path, write_safetensors):
    """Return a function that writes the packed module's changed tensors to a file."""

    def write(change, prefix=""):
        tensors = load_file(data / "torch_mha" / "packed.safetensors")
        change(tensors)
        file = tmp_path / "mha.safetensors"
        write_safetensors(file, {f"{prefix}{name}": array for name, array in tensors.items()})
        return file

    return write


def test_a_single_module_is_found_without_its_prefix(module):
    block = load_torch_mha(module(lambda tensors: None, "model.self_attn."), num_heads=4)
    assert block.provenance.layer == "model.self_attn"


def test_each_bias_is_optional(module):
    block = load_torch_mha(module(lambda tensors: tensors.pop("in_proj_bias")), num_heads=4)
    assert [name for name in block.weights if name.endswith(".bias")] == ["out_proj.bias"]


def refused(file, num_heads=4, **arguments):
    with pytest.raises(CheckpointError) as caught:
        load_torch_mha(file, num_heads=num_heads, **arguments)
    return str(caught.value)


def test_several_modules_are_listed(data):
    message = refused(data / "torch_mha" / "decoder_layer.safetensors")
    assert "several" in message
    assert "multihead_attn, self_attn" in message


def test_the_refusal_of_an_unknown_prefix_lists_the_existing_ones(data):
    file = data / "torch_mha" / "decoder_layer.safetensors"
    message = refused(file, prefix="attn")
    assert "'attn.'" in message
    assert "multihead_attn, self_attn" in message


def test_no_module(module):
    message = refused(module(lambda tensors: tensors.pop("in_proj_weight")))
    assert "holds no torch.nn.MultiheadAttention" in message


@pytest.mark.parametrize("name", ["bias_k", "bias_v"])
def test_bias_kv(module, name):
    zeros = np.zeros((1, 1, 16), dtype=np.float32)
    message = refused(module(lambda tensors: tensors.update({name: zeros})))
    assert name in message
    assert "add_bias_kv" in message


@pytest.mark.parametrize("num_heads", [-1, 0, 5])
def test_impossible_number_of_heads(module, num_heads):
    message = refused(module(lambda tensors: None), num_heads=num_heads)
    assert f"num_heads {num_heads}" in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("in_proj_weight", (47, 16)),
        ("in_proj_weight", (48,)),
        ("in_proj_bias", (16,)),
        ("out_proj.weight", (16, 8)),
        ("out_proj.bias", (8,)),
    ],
)
def test_wrong_shape(module, name, shape):
    array = np.zeros(shape, dtype=np.float32)
    message = refused(module(lambda tensors: tensors.update({name: array})))
    assert name in message
    assert "shape" in message


@pytest.mark.parametrize("name", ["k_proj_weight", "v_proj_weight", "out_proj.weight"])
def test_missing_tensor(data, tmp_path, write_safetensors, name):
    tensors = load_file(data / "torch_mha" / "separate.safetensors")
    del tensors[name]
    write_safetensors(tmp_path / "mha.safetensors", tensors)
    assert f"no tensor {name}" in refused(tmp_path / "mha.safetensors", num_heads=2)


def test_damaged_file(tmp_path):
    assert "is missing" in refused(tmp_path / "nothing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no safetensors")
    assert "not an intact safetensors file" in refused(tmp_path / "bad.safetensors")
