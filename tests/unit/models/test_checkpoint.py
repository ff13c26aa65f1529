"""Imports of recorded checkpoints, compared with the recordings, and of small made-up ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from minilm import MINILM, needs_minilm
from safetensors.numpy import load_file, save_file

from polyhead._version import __version__
from polyhead_models.checkpoint.checkpoint import CheckpointError, load_checkpoint
from polyhead_models.checkpoint.families import FAMILIES
from polyhead_models.graph import build_model
from polyhead_models.reference.attention import attend

WIDTH, HEADS, LAYERS = 12, 3, 2
BERT_CONFIG = {
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
}
BERT_NAMES = {
    "q_proj": "attention.self.query",
    "k_proj": "attention.self.key",
    "v_proj": "attention.self.value",
    "out_proj": "attention.output.dense",
}


def bert_tensors(prefix="", dtype=np.float32):
    """Make every attention tensor of a small BERT, and others that an importer must ignore."""
    rng = np.random.default_rng(0)
    tensors = {f"{prefix}embeddings.word_embeddings.weight": rng.normal(size=(9, WIDTH))}
    for layer in range(LAYERS):
        for name in (*BERT_NAMES.values(), "crossattention.self.query", "output.dense"):
            linear = f"{prefix}encoder.layer.{layer}.{name}"
            tensors[f"{linear}.weight"] = rng.normal(size=(WIDTH, WIDTH))
            tensors[f"{linear}.bias"] = rng.normal(size=WIDTH)
    return {name: array.astype(dtype) for name, array in tensors.items()}


@pytest.fixture
def make_folder(tmp_path, write_safetensors):
    """Return a function that makes a checkpoint folder; without tensors it has no weights."""

    def make(config=BERT_CONFIG, tensors=None, name="tiny"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        if tensors is not None:
            write_safetensors(folder / "model.safetensors", tensors)
        return folder

    return make


def assert_holds(block, tensors, layer, prefix=""):
    for projection, name in BERT_NAMES.items():
        for part in ("weight", "bias"):
            array = block.weights[f"{projection}.{part}"]
            assert array.dtype == np.float32
            expected = tensors[f"{prefix}encoder.layer.{layer}.{name}.{part}"]
            np.testing.assert_array_equal(array, expected.astype(np.float32))


# --- recorded checkpoints; test_checkpoint_golden.py has those of all families


@pytest.mark.parametrize("layer", [0, 1])
def test_berts_output_projection(data, layer):
    """BERT's recorded attn_output is the context, before output.dense."""
    folder = data / "golden" / "bert"
    whole = load_checkpoint(folder, layer)
    with np.load(folder / "golden.npz") as golden:
        module = f"encoder.layer.{layer}.attention.self"
        query, context = golden[f"{module}|hidden_states"], golden[f"{module}|attn_output"]
    projected = context @ whole.weights["out_proj.weight"].T
    np.testing.assert_allclose(
        attend(whole, query)[0],
        projected + whole.weights["out_proj.bias"],
        rtol=0,
        atol=2e-5 * np.abs(projected).max(),
    )
    assert whole.provenance.family == "bert"
    assert whole.provenance.layer == f"encoder.layer.{layer}.attention"


@needs_minilm
@pytest.mark.parametrize("layer", [0, 5])
def test_minilm_as_recorded(data, layer, assert_attends_as):
    with np.load(data / "golden" / "minilm_river_bank.npz") as golden:
        recorded = {key: golden[key] for key in golden.files if key.startswith(f"layer{layer}.")}
    for out_proj, output in ((True, "attn_output"), (False, "context")):
        block = load_checkpoint(MINILM, layer, out_proj=out_proj)
        attended = attend(block, recorded[f"layer{layer}.hidden_states"])
        assert_attends_as(
            attended, recorded[f"layer{layer}.{output}"], recorded[f"layer{layer}.attn_weights"]
        )


@needs_minilm
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_minilms_other_layers_are_not_loaded():
    """Exporting one layer takes less memory than twice its weights plus 150 MB."""
    program = """
import pathlib, sys
from polyhead_models.checkpoint.checkpoint import load_checkpoint
from polyhead_models.graph import build_model
block = load_checkpoint(pathlib.Path(sys.argv[1]), 0)
build_model(block)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, sum(array.nbytes for array in block.weights.values()))
"""
    command = [sys.executable, "-c", program, MINILM]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, weights = map(int, printed.split())
    assert peak < 2 * weights + 150e6


# --- variants


def test_the_requested_layer_is_read(make_folder):
    tensors = bert_tensors()
    folder = make_folder(tensors=tensors)
    for layer in range(LAYERS):
        assert_holds(load_checkpoint(folder, layer), tensors, layer)


@pytest.mark.parametrize("prefix", ["bert.", "roberta.", "electra.", "0.auto_model."])
def test_prefixes(make_folder, prefix):
    tensors = bert_tensors(prefix)
    block = load_checkpoint(make_folder(tensors=tensors), 1)
    assert_holds(block, tensors, 1, prefix)
    assert block.provenance.layer == "encoder.layer.1.attention"


def test_only_prefixes_that_end_in_a_dot_count(make_folder):
    tensors = bert_tensors()
    for name in [*tensors]:
        tensors[f"sub_{name}"] = tensors[name] + 1
    assert_holds(load_checkpoint(make_folder(tensors=tensors), 0), tensors, 0)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "camembert", "electra"])
def test_families_that_share_berts_tables(make_folder, model_type):
    folder = make_folder({**BERT_CONFIG, "model_type": model_type}, bert_tensors())
    assert load_checkpoint(folder, 0).provenance.family == model_type


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_storage_types_become_float32(make_folder, dtype):
    tensors = bert_tensors(dtype=dtype)
    assert_holds(load_checkpoint(make_folder(tensors=tensors), 0), tensors, 0)


def test_bfloat16_without_an_earlier_import_of_ml_dtypes(make_folder):
    folder = make_folder(tensors=bert_tensors(dtype=ml_dtypes.bfloat16))
    program = """
import pathlib, sys
from polyhead_models.checkpoint.checkpoint import load_checkpoint
load_checkpoint(pathlib.Path(sys.argv[1]), 0)
"""
    subprocess.run([sys.executable, "-c", program, folder], check=True)


@pytest.mark.parametrize("is_decoder", [True, False, None])
def test_a_decoder_is_causal(make_folder, is_decoder):
    config = BERT_CONFIG if is_decoder is None else {**BERT_CONFIG, "is_decoder": is_decoder}
    block = load_checkpoint(make_folder(config, bert_tensors()), 0)
    assert block.config.is_causal is bool(is_decoder)


def test_without_output_projection(make_folder):
    block = load_checkpoint(make_folder(tensors=bert_tensors()), 0, out_proj=False)
    assert not block.config.has_out_proj
    assert not any(name.startswith("out_proj") for name in block.weights)


def shard(folder, tensors, write_safetensors, **moved):
    """Split tensors over two shards by layer; ``moved`` renames shards in the index."""
    names = ("a.safetensors", "b.safetensors")
    parts = [{}, {}]
    for name, array in tensors.items():
        parts["layer.1" in name][name] = array
    weight_map = {}
    for file, part in zip(names, parts, strict=True):
        write_safetensors(folder / file, part)
        weight_map |= dict.fromkeys(part, moved.get(file.removesuffix(".safetensors"), file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards(make_folder, write_safetensors):
    tensors = bert_tensors("bert.", ml_dtypes.bfloat16)
    folder = make_folder()
    shard(folder, tensors, write_safetensors)
    for layer in range(LAYERS):
        assert_holds(load_checkpoint(folder, layer), tensors, layer, "bert.")


def test_only_the_layers_shard_is_needed(make_folder, write_safetensors):
    tensors = bert_tensors()
    folder = make_folder()
    shard(folder, tensors, write_safetensors)
    (folder / "a.safetensors").unlink()
    assert_holds(load_checkpoint(folder, 1), tensors, 1)


def test_provenance(make_folder, monkeypatch):
    folder = make_folder(tensors=bert_tensors(), name="tiny-bert")
    monkeypatch.chdir(folder)
    block = load_checkpoint(Path(), 0)
    assert block.provenance.source == "checkpoint tiny-bert"
    assert block.provenance.exporter == f"polyhead {__version__}"
    assert block.provenance.weights_sha256 == block.weights_sha256()
    assert len(block.provenance.weights_sha256) == 64


def test_two_exports_give_the_same_bytes(data):
    folder = data / "golden" / "bert"
    first, second = (build_model(load_checkpoint(folder, 0)) for _ in range(2))
    assert first == second


# --- refused checkpoints


def refused(folder, layer=0):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, layer)
    return str(caught.value)


def test_no_folder(tmp_path):
    assert "not a folder" in refused(tmp_path / "nothing")


def test_no_config(tmp_path):
    assert "config.json" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[]", "expected an object"),
        (b'"bert"', "expected an object"),
    ],
    ids=["empty", "cut", "bytes", "deep", "long number", "list", "string"],
)
def test_config_that_is_not_an_object(make_folder, text, expected):
    folder = make_folder(tensors=bert_tensors())
    (folder / "config.json").write_bytes(text)
    message = refused(folder)
    assert expected in message
    assert "config.json" in message


@pytest.mark.parametrize("key", BERT_CONFIG)
def test_missing_key(make_folder, key):
    config = {name: value for name, value in BERT_CONFIG.items() if name != key}
    assert f"has no {key}" in refused(make_folder(config, bert_tensors()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", ["bert"]),
        ("model_type", None),
        ("hidden_size", "12"),
        ("hidden_size", 12.0),
        ("num_attention_heads", True),
        ("num_hidden_layers", None),
        ("is_decoder", 1),
    ],
)
def test_value_of_the_wrong_type(make_folder, key, value):
    message = refused(make_folder({**BERT_CONFIG, key: value}, bert_tensors()))
    assert f"{key} is {value!r}; expected" in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", 0, "at least 1"),
        ("hidden_size", 10**400, "the most"),
        ("hidden_size", 2**30 * 3, "the most"),
        ("hidden_size", 2**20 * 3, "shape"),
        ("num_attention_heads", -3, "at least 1"),
        ("num_attention_heads", 5, "not a multiple"),
        ("num_hidden_layers", 0, "num_hidden_layers is 0"),
        ("position_embedding_type", "relative_key", "only 'absolute' is supported"),
    ],
)
def test_value_out_of_range(make_folder, key, value, expected):
    assert expected in refused(make_folder({**BERT_CONFIG, key: value}, bert_tensors()))


def test_position_embeddings_without_a_type_are_absolute(make_folder):
    folder = make_folder({**BERT_CONFIG, "position_embedding_type": None}, bert_tensors())
    assert load_checkpoint(folder, 0).config.rotary is None


def test_unknown_family(make_folder):
    message = refused(make_folder({**BERT_CONFIG, "model_type": "rwkv"}, bert_tensors()))
    assert "'rwkv'" in message
    assert all(family in message for family in FAMILIES)


@pytest.mark.parametrize("layer", [-1, 2, 10**30])
def test_no_such_layer(make_folder, layer):
    message = refused(make_folder(tensors=bert_tensors()), layer)
    assert f"no layer {layer}" in message
    assert "0 to 1" in message


def test_missing_tensor(make_folder):
    for name in BERT_NAMES.values():
        for part in ("weight", "bias"):
            missing = f"encoder.layer.0.{name}.{part}"
            tensors = {key: value for key, value in bert_tensors().items() if key != missing}
            folder = make_folder(tensors=tensors, name=missing)
            assert f"no tensor {missing}" in refused(folder)


def test_no_layer_in_the_file(make_folder):
    folder = make_folder({**BERT_CONFIG, "num_hidden_layers": 12}, bert_tensors())
    assert "no tensor encoder.layer.7.attention.self.query.weight" in refused(folder, 7)


def test_several_models_in_one_file(make_folder):
    tensors = bert_tensors("query_encoder.") | bert_tensors("passage_encoder.")
    message = refused(make_folder(tensors=tensors))
    assert "'passage_encoder.', 'query_encoder.'" in message


def test_the_message_names_other_tensors_of_the_file(make_folder):
    message = refused(make_folder(tensors={"decoder.attn.w": np.zeros(1, np.float32)}))
    assert "it holds, for example, decoder.attn.w" in message
    message = refused(make_folder(tensors={}, name="empty"))
    assert "it holds no tensors at all" in message


def test_an_unexpected_bias_is_refused(data, tmp_path):
    """Whisper's keys have no bias, so a checkpoint with one is another model."""
    folder = tmp_path / "whisper"
    shutil.copytree(data / "golden" / "whisper", folder)
    tensors = load_file(folder / "model.safetensors")
    bias = "model.encoder.layers.0.self_attn.k_proj.bias"
    tensors[bias] = np.ones(32, np.float32)
    save_file(tensors, folder / "model.safetensors")
    assert f"holds tensor {bias}" in refused(folder)
    assert not {"k_proj.bias"} & {*load_checkpoint(folder, 1).weights}


def test_wrong_shape(make_folder):
    tensors = bert_tensors()
    name = "encoder.layer.0.attention.self.key.weight"
    tensors[name] = tensors[name][:8]
    assert f"{name} has shape (8, 12); expected (12, 12)" in refused(make_folder(tensors=tensors))


def test_quantised_tensor(make_folder):
    message = refused(make_folder(tensors=bert_tensors(dtype=np.int8)))
    assert "stored as I8" in message
    assert "F32" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite(make_folder, value):
    tensors = bert_tensors(dtype=np.float64)
    tensors["encoder.layer.0.attention.output.dense.bias"][3] = value
    assert "attention.output.dense.bias holds values" in refused(make_folder(tensors=tensors))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:200],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b'"F32"', b'"F33"'),
        lambda content: content.replace(b"[0, ", b"[4, ", 1),
        lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
    ids=["empty", "length", "header", "cut", "longer", "huge", "dtype", "offset", "lfs"],
)
def test_damaged_weights(make_folder, damage):
    folder = make_folder(tensors=bert_tensors())
    file = folder / "model.safetensors"
    damaged = damage(file.read_bytes())
    assert damaged != file.read_bytes()
    file.write_bytes(damaged)
    message = refused(folder)
    assert "not an intact safetensors file" in message
    assert "download it again" in message


def test_a_folder_instead_of_the_weights_file(make_folder):
    folder = make_folder()
    (folder / "model.safetensors").mkdir()
    assert "not a file" in refused(folder)


def test_no_weights(make_folder):
    message = refused(make_folder())
    assert "neither model.safetensors nor model.safetensors.index.json" in message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_pickled_weights(make_folder, name):
    folder = make_folder()
    (folder / name).touch()
    message = refused(folder)
    assert name in message
    assert "save_pretrained" in message


def test_missing_shard(make_folder, write_safetensors):
    folder = make_folder()
    shard(folder, bert_tensors(), write_safetensors)
    (folder / "a.safetensors").unlink()
    message = refused(folder)
    assert "a.safetensors is missing" in message


def test_shard_without_the_tensor(make_folder, write_safetensors):
    folder = make_folder()
    shard(folder, bert_tensors(), write_safetensors, a="b.safetensors")
    assert "says that b.safetensors holds tensor encoder.layer.0" in refused(folder)


@pytest.mark.parametrize(
    "name",
    ["../tiny/a.safetensors", "/a.safetensors", "x/a", "..", ".", "", "a\0", "x\\a", 7, None],
)
def test_shard_outside_the_folder(make_folder, write_safetensors, name):
    folder = make_folder()
    shard(folder, bert_tensors(), write_safetensors, a=name)
    message = refused(folder)
    assert f"into {name!r}" in message
    assert "plain name" in message


@pytest.mark.parametrize("index", ["{", "{}", "[]", '{"weight_map": []}'])
def test_damaged_index(make_folder, index):
    folder = make_folder()
    (folder / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refused(folder)
