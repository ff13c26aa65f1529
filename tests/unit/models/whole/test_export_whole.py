"""How a whole model is written: which files, which bytes, which errors."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from changed_checkpoint import changed
from golden import GOLDEN
from safetensors.numpy import load_file, save_file

from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.config import ConfigError
from polyhead_models.export.whole import export_whole_model
from polyhead_models.whole_config import WholeConfig


@pytest.fixture
def bert(tmp_path):
    """A copy of a small BERT's checkpoint."""
    return shutil.copytree(GOLDEN / "bert", tmp_path / "bert")


def export(folder, repository, **options):
    return export_whole_model(Checkpoint.open(folder), "m", repository, **options)


def test_the_same_export_writes_the_same_bytes(bert, tmp_path):
    (bert / "tokenizer.json").write_text('{"model": {"vocab": {"a": 39}}}')
    folders = [export(bert, tmp_path / name).folder for name in ("one", "two")]
    files = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert {*files[0]} == {"SHA256SUMS", "model.onnx", "model.onnx.data", "tokenizer.json"}


def test_the_same_int8_export_writes_the_same_bytes(bert, tmp_path):
    folders = [export(bert, tmp_path / name, precision="int8").folder for name in ("one", "two")]
    files = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert {*files[0]} == {"SHA256SUMS", "model.onnx", "model.onnx.data"}
    assert [path.name for path in (tmp_path / "one" / "m").iterdir()] == ["1"]


def test_no_weight_is_stored_twice(bert, tmp_path):
    exported = export(bert, tmp_path / "models")
    tensors = load_file(bert / "model.safetensors")
    used = [array for name, array in tensors.items() if "pooler" not in name]
    weights = (exported.folder / "model.onnx.data").stat().st_size
    page = 4096
    assert weights < sum(array.nbytes for array in used) + page * len(used)
    assert (exported.folder / "model.onnx").stat().st_size < 100_000


def test_words_of_two_stacks_are_stored_once(tmp_path):
    folder = export(GOLDEN / "t5", tmp_path).folder
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    offsets = [
        entry.value
        for tensor in tensors_of(graph.graph)
        if [*tensor.dims]
        == [*load_file(GOLDEN / "t5" / "model.safetensors")["shared.weight"].shape]
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert len(offsets) == 2
    assert len({*offsets}) == 1


def tensors_of(graph):
    """Yield the tensors of a graph, and of the graphs in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from tensors_of(attribute.g)


def test_alberts_layers_share_segments(tmp_path):
    (stack,) = export(GOLDEN / "albert", tmp_path).config.stacks
    first, second, *_ = stack.layers
    assert first != second
    assert stack.layers[2:4] == (first, second)
    assert stack.layers[4] not in {first, second}
    assert len(stack.layers) == 6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(np.float32, "float32"), (ml_dtypes.bfloat16, "float32"), (np.float32, "int8")],
)
def test_an_export_holds_the_largest_tensor_once(dtype, precision, tmp_path):
    folder = shutil.copytree(GOLDEN / "llama", tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    width = len(tensors["norm.weight"])
    words = np.repeat(np.arange((1 << 25) // width) % 251, width).astype(dtype)
    tensors["embed_tokens.weight"] = words.reshape(-1, width)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    vocab_size = len(tensors["embed_tokens.weight"])
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": vocab_size}))
    program = """
import sys
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
checkpoint = Checkpoint.open(sys.argv[1])
export_whole_model(checkpoint, "m", sys.argv[2], precision=sys.argv[3], max_weights_error=1.0)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    command = [sys.executable, "-c", program, folder, tmp_path / "models", precision]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(printed) * 1024 < words.size * 4 + 120e6
    weights = tmp_path / "models" / "m" / "1" / "model.onnx.data"
    assert (np.fromfile(weights, np.float32, words.size) == words).all()


def test_progress_is_reported_layer_by_layer(bert, tmp_path):
    layers = []
    export(bert, tmp_path / "models", on_layer=layers.append)
    assert layers == ["encoder layer 0", "encoder layer 1"]


def test_words_may_be_saved_as_the_last_layer_if_both_are_one(tmp_path):
    folder = shutil.copytree(GOLDEN / "llama-linear", tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors")
    renamed = export(folder, tmp_path / "models").folder / "model.onnx.data"
    original = export(GOLDEN / "llama-linear", tmp_path / "others").folder / "model.onnx.data"
    assert renamed.read_bytes() == original.read_bytes()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"no tensor model\.embed_tokens\.weight"):
        export(folder, tmp_path / "models")


def test_an_unknown_activation_is_refused(bert, tmp_path):
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"hidden_act": "prelu"}))
    with pytest.raises(CheckpointError, match="activation is 'prelu'; supported are gelu"):
        export(bert, tmp_path / "models")


def test_a_mixture_of_experts_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"mixture of experts.* choose --layer or --all-layer"
    ):
        export(GOLDEN / "gpt_oss", tmp_path)


def test_the_configuration_survives_json(bert, tmp_path):
    config = export(bert, tmp_path / "models").config
    assert WholeConfig.from_json(config.to_json()) == config
    wrong = {"trained_length": -1, "start_token_id": 40, "truncation_side": "top"}
    for key, value in wrong.items():
        damaged = re.sub(rf'("{key}"): [^,}}]+', rf"\1: {json.dumps(value)}", config.to_json())
        with pytest.raises(ConfigError, match=f"{key}.*{value}.*; expected"):
            WholeConfig.from_json(damaged)
    for text in ("", "{}", '{"stacks": []}', '{"stacks": [{"name": "encoder"}]}'):
        with pytest.raises(ConfigError):
            WholeConfig.from_json(text)


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("bart", {"decoder_start_token_id": 7}, 7),
        ("t5", {}, 0),  # config.json has no such key
        ("mbart", {"decoder_start_token_id": None}, -1),
        ("whisper", {"decoder_start_token_id": 50257}, -1),  # beyond the vocabulary of 40
    ],
)
def test_a_decoders_sequences_begin_as_the_files_state(tmp_path, family, settings, expected):
    config = export(changed(tmp_path, family, **settings), tmp_path / "models").config
    encoder, decoder = config.stacks
    assert (encoder.start_token_id, decoder.start_token_id) == (-1, expected)
    older = re.sub(r'"start_token_id": -?\d+, ', "", config.to_json())
    assert WholeConfig.from_json(older).stacks[1].start_token_id == -1


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", 2), ("roberta", 1), ("electra", 2), ("albert", 2), ("distilbert", 0), ("vit", 0)],
)
def test_token_types_are_counted(tmp_path, family, expected):
    config = export(GOLDEN / family, tmp_path).config
    assert config.stacks[0].num_types == expected
    older = re.sub(r'"num_types": \d+, ', "", config.to_json())
    assert WholeConfig.from_json(older).stacks[0].num_types == 0
    if family == "vit":
        damaged = config.to_json().replace('"num_types": 0', '"num_types": 2')
        with pytest.raises(ConfigError, match="num_types is 2; pixel_values have no token types"):
            WholeConfig.from_json(damaged)


def test_images_of_any_size_have_positions_by_their_size(tmp_path):
    (stack,) = export(GOLDEN / "dinov2_with_registers", tmp_path).config.stacks
    assert stack.length_of((3, 28, 28)) == 4 * 4 + 1 + 3
    assert stack.length_of((3, 7, 20)) == 2 + 1 + 3
    for shape in ((3, 6, 28), (1, 28, 28), (28, 28)):
        assert stack.length_of(shape) == 0


def test_images_of_one_size_have_one_length(tmp_path):
    (stack,) = export(GOLDEN / "vit", tmp_path).config.stacks
    assert stack.length_of((3, 32, 32)) == stack.max_length == 17
    assert stack.length_of((3, 32, 33)) == 0


@pytest.mark.parametrize("patch_size", [(7,), (0, 7), (7, 7, 7)])
def test_sizes_of_patches_are_checked(patch_size, tmp_path):
    config = export(GOLDEN / "dinov2", tmp_path).config
    text = config.to_json().replace("[7, 7]", json.dumps(patch_size))
    with pytest.raises(ConfigError, match=r"patch_size is .*; expected height and width"):
        WholeConfig.from_json(text)
