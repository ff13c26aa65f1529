"""`polyhead export`, run as the `polyhead` command runs it."""

import argparse
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from changed_checkpoint import changed
from golden import GOLDEN

from polyhead.cli.command import UsageError
from polyhead_models.blocks import PROVENANCE_KEY, Provenance
from polyhead_models.checkpoint.checkpoint import load_checkpoint
from polyhead_models.commands.export import COMMAND
from polyhead_models.config import CONFIG_KEY, AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.names import name_of_folder
from polyhead_models.random_block import random_block
from polyhead_models.rotary import Rotary
from polyhead_models.torch_mha import load_torch_mha

RANDOM = ("random", "--embed-dim", "8", "--num-heads", "2", "--name", "r")

SDPA = ("sdpa", "--num-heads", "2", "--head-dim", "8", "--name", "s")

BERT = ("checkpoint", GOLDEN / "bert", "--name", "b")

INT8 = ("--quantize", "int8")


@pytest.fixture
def export(tmp_path):
    """Return a function that runs `polyhead export ARGUMENTS --out REPO` and returns REPO."""

    def run(*arguments, repository=tmp_path / "my models"):
        parser = argparse.ArgumentParser()
        COMMAND.add_arguments(parser)
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


@pytest.mark.parametrize(
    ("family", "tokenizer", "described"),
    [
        (
            "siglip",
            False,
            "token_ids or pixel_values\n         no text, because the checkpoint has no",
        ),
        ("siglip", True, "text or pixel_values\nsource"),
        ("whisper", True, "input_features\nsource"),
        ("t5", True, "text\nsource"),
        ("dinov2", False, "pixel_values\nsource"),
    ],
)
def test_inputs_of_a_whole_model(export, data, tmp_path, capsys, family, tokenizer, described):
    folder = shutil.copytree(data / "golden" / family, tmp_path / family)
    if tokenizer:
        (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    export("checkpoint", folder, "--name", "whole")
    assert f"\ninput    {described}" in capsys.readouterr().out


def test_layers_that_the_configuration_does_not_count_are_warned_of(export, tmp_path, capsys):
    export("checkpoint", changed(tmp_path, "bert", num_hidden_layers=1), "--name", "whole")
    warning = "also holds encoder layer 1, and config.json counts 1"
    assert capsys.readouterr().err.count(warning) == 1


def test_an_int8_whole_model(export, capsys):
    export(*BERT, *INT8)
    printed = capsys.readouterr()
    assert re.search(
        r"\nint8     projections, up, down\n +attention weights move by 0\.0\d+ at most, on random "
        r"input\nsource ",
        printed.out,
    )
    assert "exported encoder layer 1, measured (6 of 6)" in printed.err


def test_cross_attention_of_a_decoder(export, data, capsys):
    folder = data / "golden" / "bart"
    repository = export("checkpoint", folder, "--layer", 1, "--kind", "cross", "--name", "c")
    block = load_checkpoint(folder, 1, kind="cross", stack="decoder")
    assert (repository / "c" / "1" / "model.onnx").read_bytes() == build_model(block)
    assert "decoder.layers.1.encoder_attn" in capsys.readouterr().out


def test_a_tower_of_clip(export, data):
    folder = data / "golden" / "clip"
    repository = export("checkpoint", folder, "--layer", 0, "--stack", "vision", "--name", "v")
    _, provenance = metadata(repository / "v" / "1" / "model.onnx")
    assert provenance.layer == "vision_model.encoder.layers.0.self_attn"


def models(repository):
    return sorted(folder.name for folder in repository.iterdir())


def test_all_layers_of_one_stack(export, data, capsys):
    folder = data / "golden" / "gemma2"
    repository = export("checkpoint", folder, "--all-layers", "--name", "g")
    assert models(repository) == ["g-0", "g-1"]
    for layer in (0, 1):
        file = repository / f"g-{layer}" / "1" / "model.onnx"
        assert file.read_bytes() == build_model(load_checkpoint(folder, layer))
    printed = capsys.readouterr()
    assert "2 models into" in printed.out
    assert "g-0 to g-1" in printed.out
    assert printed.err == "exported g-0 (1 of 2)\nexported g-1 (2 of 2)\n"


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ((), ["t-decoder-cross", "t-decoder-self", "t-encoder-self"]),
        (("--stack", "decoder"), ["t-decoder-cross", "t-decoder-self"]),
        (("--kind", "self"), ["t-decoder-self", "t-encoder-self"]),
        (("--kind", "cross"), ["t"]),
        (("--stack", "encoder"), ["t"]),
    ],
)
def test_all_layers_of_some_stacks_and_kinds(export, data, chosen, names):
    repository = export(
        "checkpoint", data / "golden" / "t5", "--all-layers", "--name", "t", *chosen
    )
    assert models(repository) == [f"{name}-{layer}" for name in names for layer in (0, 1)]


def test_all_layers_in_a_terminal(export, data, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    export("checkpoint", data / "golden" / "gemma2", "--all-layers", "--name", "g")
    drawn = capsys.readouterr().err
    assert "2/2" in drawn
    assert "(1 of 2)" not in drawn


def test_a_stderr_that_cannot_be_written_does_not_end_an_export(export, data, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    repository = export("checkpoint", data / "golden" / "gemma2", "--all-layers", "--name", "g")
    assert models(repository) == ["g-0", "g-1"]


def test_a_name_that_is_too_long_for_one_layer_is_refused(export, data, tmp_path):
    folder = data / "golden" / "t5"
    with pytest.raises(UsageError, match="cannot be a model's name"):
        export("checkpoint", folder, "--all-layers", "--name", "t" * 120)
    assert not [*tmp_path.rglob("model.onnx")]


def test_checkpoint_without_output_projection(export, data):
    folder = data / "golden" / "distilbert"
    repository = export("checkpoint", folder, "--layer", 0, "--name", "d", "--no-out-proj")
    config, _ = metadata(repository / "d" / "1" / "model.onnx")
    assert not config.has_out_proj


@pytest.mark.parametrize("layers", [("--layer", 0), ("--all-layers",)])
def test_code_of_its_own_is_warned_of_once(export, data, tmp_path, capsys, layers):
    folder = tmp_path / "own"
    shutil.copytree(data / "golden" / "llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    repository = export("checkpoint", folder, *layers, "--name", "o")
    assert capsys.readouterr().err.count("polyhead: warning: ") == 1
    (file, *_) = repository.rglob("model.onnx")
    assert metadata(file)[1].source == "checkpoint own, without its own code"


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


def test_every_variant_of_random(export, capsys):
    repository = export(
        "random", "--embed-dim", 32, "--num-heads", 4, "--num-kv-heads", 2, "--v-head-dim", 6,
        "--causal", "--sliding-window", 5, "--scale", 0.25, "--softcap", 20,
        "--rotary-dim", 4, "--rope-theta", 500, "--rope-interleaved", "--rope-scaling", "yarn",
        "--rope-factor", 4, "--rope-original-max-positions", 64,
        "--alibi", "--relative-buckets", 8, "--relative-max-distance", 32,
        "--sinks", "--qk-norm", "--name", "r",
    )  # fmt: skip
    config, _ = metadata(repository / "r" / "1" / "model.onnx")
    assert config == AttentionConfig(
        embed_dim=32,
        num_heads=4,
        num_kv_heads=2,
        v_head_dim=6,
        is_causal=True,
        sliding_window=5,
        scale=0.25,
        softcap=20.0,
        rotary=Rotary(
            dim=4,
            theta=500.0,
            is_interleaved=True,
            scaling="yarn",
            factor=4.0,
            original_max_positions=64,
        ),
        has_alibi=True,
        relative_buckets=8,
        relative_max_distance=32,
        has_sinks=True,
        qk_norm_eps=1e-6,
    )
    printed = capsys.readouterr().out
    assert "4 heads of 8, 2 of keys and values, values of 6" in printed
    assert (
        "sliding window 5, rotary (4 of 8 dimensions, theta 500, interleaved, yarn x4), ALiBi, "
        "8 relative position buckets, q/k norm, scale 0.25, softcap 20, sinks"
    ) in printed


def test_the_default_distance_of_relative_buckets_is_t5s(export):
    repository = export(*RANDOM, "--relative-buckets", 8)
    config, _ = metadata(repository / "r" / "1" / "model.onnx")
    assert config.relative_max_distance == 128


def test_sdpa(export, capsys):
    repository = export(
        "sdpa", "--num-heads", 4, "--head-dim", 8, "--num-kv-heads", 2, "--v-head-dim", 6,
        "--causal", "--softcap", 3, "--name", "s",
    )  # fmt: skip
    config, provenance = metadata(repository / "s" / "1" / "model.onnx")
    assert config == AttentionConfig(
        embed_dim=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        v_head_dim=6,
        is_causal=True,
        softcap=3.0,
        has_in_proj=False,
        has_out_proj=False,
    )
    assert provenance.source == "sdpa"
    printed = capsys.readouterr().out
    assert "causal, no projections" in printed
    assert "sha256" not in printed  # because there are no weights


@pytest.mark.parametrize(
    ("option", "precision"), [(("--dtype", "float16"), "float16"), (("--quantize", "int8"), "int8")]
)
def test_precisions(export, capsys, option, precision):
    repository = export(*RANDOM, *option)
    config, provenance = metadata(repository / "r" / "1" / "model.onnx")
    assert config.precision == precision
    assert 0 < provenance.precision_error < 0.1
    assert f"{precision}: {provenance.precision_error:.1e} from float32" in capsys.readouterr().out


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
    ("arguments", "message"),
    [
        ((*RANDOM[:-1], "../r"), "cannot be a model's name"),
        ((*RANDOM, "--version", "0"), "version is 0"),
        ((*RANDOM, "--num-heads", "3"), "not a multiple"),
        ((*RANDOM, "--embed-dim", "0"), "at least 1"),
        ((*RANDOM, "--kdim", "-1"), "must not be negative"),
        ((*RANDOM, "--embed-dim", "2000000"), "GiB of memory; choose a narrower block"),
        ((*RANDOM, "--rope-theta", "5"), "need --rotary-dim"),
        ((*RANDOM, "--rotary-dim", "4", "--rope-factor", "5"), "needs --rope-scaling"),
        ((*RANDOM, "--rotary-dim", "3"), "must be even"),
        ((*RANDOM, "--rotary-dim", "6"), "no more than 4"),
        ((*RANDOM, "--relative-max-distance", "6"), "needs --relative-buckets"),
        ((*RANDOM, "--softcap", "-1"), "softcap is -1.0"),
        ((*SDPA, "--head-dim", "0"), "must be at least 1"),
        ((*SDPA, "--num-kv-heads", "3"), "not a multiple of num_kv_heads"),
        ((*SDPA, "--quantize", "int8"), "int8 is for projections"),
        ((*BERT, "--max-weights-error", "0.2"), "is for --quantize int8; add it"),
        ((*BERT, *INT8, "--layer", "0", "--max-weights-error", "0.2"), "is for whole models; omit"),
        ((*BERT, *INT8, "--max-weights-error", "1e-9"), "more than 1e-09: .* or export float32"),
        (("checkpoint", "nowhere", "--layer", "0", "--name", "c"), "not a folder"),
        (("torch", "nowhere", "--num-heads", "2", "--name", "t"), "is missing"),
    ],
)
def test_a_refusal_gives_the_reason_and_writes_nothing(export, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        export(*arguments)
    assert not [*tmp_path.rglob("model.onnx")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_repository_path_that_is_not_utf8_is_refused(export, tmp_path):
    """Before anything is written, because ONNX Runtime opens no file there."""
    repository = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(UsageError, match="is not UTF-8, and ONNX Runtime opens no such path"):
        export(*RANDOM, repository=repository)
    assert not repository.exists()


def test_a_repository_path_that_is_a_file_is_refused(export, tmp_path):
    (tmp_path / "my models").touch()
    with pytest.raises(UsageError, match="my models"):
        export(*RANDOM)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_repository_without_write_permission_is_refused(export, tmp_path):
    (tmp_path / "my models").mkdir(mode=0o500)
    with pytest.raises(
        UsageError, match=r"my models.* cannot be read or written: Permission denied"
    ):
        export(*RANDOM)


def test_advice_names_only_existing_options(export, data):
    file = data / "torch_mha" / "packed.safetensors"
    with pytest.raises(UsageError, match="not a multiple of 5") as caught:
        export("torch", file, "--num-heads", 5, "--name", "t")
    assert "head_dim" not in str(caught.value)


CHECKPOINT = ("checkpoint", "folder", "--name", "c")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("random",),
        (*RANDOM, "--seed", "-1"),
        (*RANDOM, "--dtype", "float16", "--quantize", "int8"),
        (*RANDOM, "--rope-scaling", "ntk"),
        (*CHECKPOINT, "--layer", "0", "--all-layers"),
        *((*CHECKPOINT, "--max-weights-error", error) for error in ("0", "-1", "1.5", "nan", "x")),
        (*CHECKPOINT, "--layer", "0", "--kind", "other"),
        (*SDPA, "--sinks"),
    ],
)
def test_invalid_command_lines_exit_with_usage(export, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        export(*arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_works_without_the_extra():
    program = """
import argparse, sys
from polyhead_models.commands.export import COMMAND
COMMAND.add_arguments(argparse.ArgumentParser())
assert not {"onnx", "safetensors", "ml_dtypes", "rich"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("checkpoint", GOLDEN / "bert"), "bert"),
        (("checkpoint", GOLDEN / "bert", "--layer", "1"), "bert-1"),
        (("checkpoint", GOLDEN / "t5", "--layer", "0", "--kind", "cross"), "t5-cross-0"),
        (
            ("torch", GOLDEN.parent / "torch_mha" / "packed.safetensors", "--num-heads", "4"),
            "packed",
        ),
        (RANDOM[:-2], "random"),
        (SDPA[:-2], "sdpa"),
    ],
)
def test_name_and_repository_have_defaults(arguments, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    assert COMMAND.run(parser.parse_args([*map(str, arguments)])) == 0
    assert (tmp_path / "models" / name / "1" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("link", "link"),
        ("hub/models--org--Model-1.5/snapshots/c0ffee", "Model-1.5"),
        ("snapshots/mine", "mine"),
    ],
)
def test_a_folder_names_its_model(folder, name, tmp_path, monkeypatch):
    (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / folder).symlink_to(GOLDEN / "bert")
    assert name_of_folder(tmp_path / folder) == name
    monkeypatch.chdir(tmp_path / folder)
    assert name_of_folder(Path()) == "bert"
