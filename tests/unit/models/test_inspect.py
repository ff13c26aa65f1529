"""`polyhead inspect`, run as the `polyhead` command runs it."""

import argparse
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from golden import GOLDEN
from minilm import MINILM, needs_minilm
from safetensors.numpy import load_file, save_file

from polyhead.cli.command import UsageError
from polyhead_models.commands.inspect import COMMAND


@pytest.fixture
def inspect(capsys):
    """Return a function that runs `polyhead inspect ARGUMENTS` and returns its output."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        COMMAND.add_arguments(parser)
        assert COMMAND.run(parser.parse_args([*map(str, arguments)])) == 0
        return capsys.readouterr().out

    return run


def table(printed):
    """The lines of the table, which an empty line ends."""
    return printed.partition("\n\n")[0].splitlines()


def rows(printed):
    return [line.split() for line in table(printed)[1:]]


def test_equal_layers_share_a_row(inspect):
    printed = inspect(GOLDEN / "bart")
    assert [row[:6] for row in rows(printed)] == [
        ["encoder", "self", "0-1", "4", "16", "64"],
        ["decoder", "self", "0-1", "4", "16", "64"],
        ["decoder", "cross", "0-1", "4", "16", "64"],
    ]
    assert "16,640 F32, 0.1 MB" in printed


def test_different_layers_have_their_own_rows(inspect):
    first, second = table(inspect(GOLDEN / "gemma2"))[1:]
    assert first.split()[:4] == ["decoder", "self", "0", "4/2"]
    assert first.endswith("causal, sliding window 4, rotary (theta 10000), scale 0.2236, softcap 5")
    assert second.endswith("causal, rotary (theta 10000), scale 0.2236, softcap 5")


def test_json(inspect):
    listed = json.loads(inspect(GOLDEN / "llama-sharded-bf16", "--json"))
    assert listed["family"] == "llama"
    assert [layer["layer"] for layer in listed["layers"]] == [0, 1]
    parameters = 2 * 64 * 64 + 2 * 16 * 64 + 2 * 64 + 2 * 16  # with biases
    assert listed["layers"][0] == {
        "stack": "decoder",
        "kind": "self",
        "layer": 0,
        "embed_dim": 64,
        "num_heads": 4,
        "num_kv_heads": 1,
        "head_dim": 16,
        "num_parameters": parameters,
        "num_bytes": 2 * parameters,
        "dtypes": ["BF16"],
        "traits": ["causal", "rotary (theta 10000)"],
    }


def test_whether_the_whole_model_can_be_exported(inspect, tmp_path):
    folder = shutil.copytree(GOLDEN / "bart", tmp_path / "bart")
    assert inspect(folder).endswith("\n\nwhole model: 4 layers; export it without --layer\n")
    (folder / "tokenizer.json").write_text("{}")
    assert "whole model: 4 layers, with its tokenizer" in inspect(folder)
    expected = {"num_layers": 4, "has_tokenizer": True, "problem": ""}
    assert json.loads(inspect(folder, "--json"))["whole_model"] == expected
    assert "whole model: no. gpt_oss is a mixture of experts" in inspect(GOLDEN / "gpt_oss")


@needs_minilm
def test_minilm(inspect):
    assert [row[:6] for row in rows(inspect(MINILM))] == [
        ["encoder", "self", "0-5", "12", "32", "384"]
    ]


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("*/")), ids=lambda folder: folder.name)
def test_every_recorded_family(inspect, folder):
    assert json.loads(inspect(folder, "--json"))["layers"]


def test_no_weights_are_read(inspect, tmp_path):
    folder = tmp_path / "t5"
    shutil.copytree(GOLDEN / "t5", folder)
    tensors = load_file(folder / "model.safetensors")
    damaged = {name: np.full_like(array, np.nan) for name, array in tensors.items()}
    save_file(damaged, folder / "model.safetensors")
    assert inspect(folder) == inspect(GOLDEN / "t5")


@pytest.fixture
def own_code(tmp_path):
    """A checkpoint that brings code of its own."""
    folder = tmp_path / "own"
    shutil.copytree(GOLDEN / "llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "someone/own--modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_of_its_own_is_warned_of(inspect, own_code, capsys):
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    COMMAND.run(parser.parse_args([str(own_code)]))
    printed = capsys.readouterr()
    assert printed.out == inspect(GOLDEN / "llama")
    assert printed.err.startswith(f"polyhead: warning: {own_code}: auto_map in config.json names")
    assert "'modeling_own.OwnModel' of the repository 'someone/own'" in printed.err
    assert "OwnModel" in json.loads(inspect(own_code, "--json"))["warning"]
    assert json.loads(inspect(GOLDEN / "llama", "--json"))["warning"] == ""


def test_code_of_its_own_is_warned_of_before_an_error(inspect, own_code, capsys):
    (own_code / "model.safetensors").unlink()
    save_file({"own.weight": np.zeros(1, np.float32)}, own_code / "model.safetensors")
    with pytest.raises(UsageError, match="holds no tensor"):
        inspect(own_code)
    assert "polyhead: warning: " in capsys.readouterr().err


def test_a_missing_tensor_is_named(inspect, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(GOLDEN / "llama", folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.1.self_attn.o_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"no tensor layers\.1\.self_attn\.o_proj\.weight"):
        inspect(folder)


def test_a_folder_that_does_not_exist(inspect, tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        inspect(tmp_path / "nothing")


def test_a_path_that_the_system_refuses(inspect, tmp_path):
    with pytest.raises(UsageError, match="cannot be read: File name too long"):
        inspect(tmp_path / ("x" * 5000))


def test_help_works_without_the_extra():
    program = """
import argparse, sys
from polyhead_models.commands.inspect import COMMAND
COMMAND.add_arguments(argparse.ArgumentParser())
assert not {"numpy", "onnx", "safetensors", "ml_dtypes"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
