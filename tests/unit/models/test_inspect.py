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


def rows(printed):
    return [line.split() for line in printed.splitlines()[1:]]


def test_equal_layers_share_a_row(inspect):
    printed = inspect(GOLDEN / "bart")
    assert [row[:6] for row in rows(printed)] == [
        ["encoder", "self", "0-1", "4", "16", "64"],
        ["decoder", "self", "0-1", "4", "16", "64"],
        ["decoder", "cross", "0-1", "4", "16", "64"],
    ]
    assert "16,640 F32, 0.1 MB" in printed


def test_different_layers_have_their_own_rows(inspect):
    first, second = inspect(GOLDEN / "gemma2").splitlines()[1:]
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


def test_help_works_without_the_extra():
    program = """
import argparse, sys
from polyhead_models.commands.inspect import COMMAND
COMMAND.add_arguments(argparse.ArgumentParser())
assert not {"numpy", "onnx", "safetensors", "ml_dtypes"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
