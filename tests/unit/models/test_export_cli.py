"""`polyhead export`, run as the `polyhead` command runs it."""

import argparse
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from polyhead.cli.command import UsageError
from polyhead_models.checkpoint import load_checkpoint
from polyhead_models.cli import COMMAND
from polyhead_models.config import CONFIG_KEY, PROVENANCE_KEY, AttentionConfig, Provenance
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.torch_mha import load_torch_mha

RANDOM = ("random", "--embed-dim", "8", "--num-heads", "2", "--name", "r")


@pytest.fixture
def export(tmp_path):
    """Run `polyhead export ARGUMENTS --out <a repository>`; gives the repository."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        COMMAND.add_arguments(parser)
        repository = tmp_path / "my models"
        parsed = parser.parse_args([*map(str, arguments), "--out", str(repository)])
        assert COMMAND.run(parsed) == 0
        return repository

    return run


def metadata(file: Path):
    properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    config = AttentionConfig.from_json(properties[CONFIG_KEY])
    return config, Provenance.from_json(properties[PROVENANCE_KEY])


def test_checkpoint(export, data, capsys):
    folder = data / "golden" / "bert"
    repository = export("checkpoint", folder, "--layer", 1, "--name", "tiny")
    file = repository / "tiny" / "1" / "model.onnx"
    assert file.read_bytes() == build_model(load_checkpoint(folder, 1))
    _, provenance = metadata(file)
    assert provenance.source == "checkpoint bert"

    printed = capsys.readouterr().out
    assert f"{file} ({file.stat().st_size:,} bytes)" in printed
    assert "4 heads of 16: embed_dim 64, kdim 64, vdim 64, output 64" in printed
    assert "checkpoint bert, bert, encoder.layer.1.attention" in printed
    assert provenance.weights_sha256 in printed
    assert f"polyhead serve --models '{repository}'" in printed


def test_checkpoint_without_output_projection(export, data):
    folder = data / "golden" / "distilbert"
    repository = export("checkpoint", folder, "--layer", 0, "--name", "d", "--no-out-proj")
    config, _ = metadata(repository / "d" / "1" / "model.onnx")
    assert not config.has_out_proj


def test_torch(export, data):
    file = data / "torch_mha" / "decoder_layer.safetensors"
    repository = export(
        "torch", file, "--num-heads", 4, "--prefix", "self_attn", "--causal", "--name", "t"
    )
    block = load_torch_mha(file, num_heads=4, prefix="self_attn", is_causal=True)
    assert (repository / "t" / "1" / "model.onnx").read_bytes() == build_model(block)


def test_random(export, capsys):
    repository = export(
        "random", "--embed-dim", 6, "--num-heads", 2, "--head-dim", 4, "--kdim", 5, "--vdim", 7,
        "--causal", "--no-bias", "--no-out-proj", "--seed", 3, "--name", "r",
    )  # fmt: skip
    config = AttentionConfig(
        embed_dim=6, num_heads=2, head_dim=4, kdim=5, vdim=7, is_causal=True, has_out_proj=False
    )
    file = repository / "r" / "1" / "model.onnx"
    assert file.read_bytes() == build_model(random_block(config, 3, bias=False))
    assert "causal, no biases, no output projection" in capsys.readouterr().out


def test_the_same_export_gives_the_same_bytes(export):
    for _ in range(2):
        repository = export(*RANDOM)
    first, second = ((repository / "r" / v / "model.onnx").read_bytes() for v in "12")
    assert first == second


def test_versions(export):
    export(*RANDOM, "--version", 7, "--seed", 1)
    with pytest.raises(UsageError, match="exists already"):
        export(*RANDOM, "--version", 7, "--seed", 2)
    repository = export(*RANDOM, "--version", 7, "--seed", 2, "--overwrite")
    _, provenance = metadata(repository / "r" / "7" / "model.onnx")
    assert provenance.source == "random seed 2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*RANDOM[:-1], "../r"), "cannot be a model's name"),
        ((*RANDOM, "--version", "0"), "version is 0"),
        ((*RANDOM, "--num-heads", "3"), "not a multiple"),
        ((*RANDOM, "--embed-dim", "0"), "at least 1"),
        ((*RANDOM, "--kdim", "-1"), "must not be negative"),
        ((*RANDOM, "--embed-dim", "2000000"), "less than 2 GiB"),
        (("checkpoint", "nowhere", "--layer", "0", "--name", "c"), "not a folder"),
        (("torch", "nowhere", "--num-heads", "2", "--name", "t"), "is missing"),
    ],
)
def test_refusals_say_why_and_write_nothing(export, tmp_path, arguments, said):
    with pytest.raises(UsageError, match=said):
        export(*arguments)
    assert not [*tmp_path.rglob("model.onnx")]


def test_a_repository_that_is_a_file(export, tmp_path):
    (tmp_path / "my models").touch()
    with pytest.raises(UsageError, match="my models"):
        export(*RANDOM)


@pytest.mark.parametrize("arguments", [(), ("random",), (*RANDOM, "--seed", "-1")])
def test_command_lines_that_make_no_sense(export, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        export(*arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_needs_no_extra():
    program = """
import argparse, sys
from polyhead_models.cli import COMMAND
COMMAND.add_arguments(argparse.ArgumentParser())
assert not {"onnx", "safetensors", "ml_dtypes"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
