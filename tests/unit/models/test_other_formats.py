"""What is no checkpoint is answered with how to get one."""

from __future__ import annotations

import json
import shutil

import pytest
from golden import GOLDEN

from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ("org/Model-1.5", "hf download org/Model-1.5 --local-dir Model-1.5 "),
        ("bert-base-uncased", "hf download bert-base-uncased --local-dir bert-base-uncased "),
        ("hf://org/Model", "hf download org/Model --local-dir Model "),
        ("https://huggingface.co/org/Model", "hf download org/Model --local-dir Model "),
        ("https://huggingface.co/org/Model/tree/main", "hf download org/Model --local-dir Model "),
    ],
)
def test_an_id_of_the_hub_is_answered_with_the_download(given, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command in refusal(given)


@pytest.mark.parametrize(
    "given", ["a/b/c", "../lost", "/nowhere/at-all", "~/model", "hf://a/b/c", "https://x.y/a/b"]
)
def test_other_paths_are_no_ids(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "is not a folder" in refusal(given)
    assert "hf download" not in refusal(given)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("model.gguf", "gguf_file=FILE"),
        ("model.pt", "safetensors.torch.save_file"),
        ("pytorch_model.bin", "save_pretrained"),
        ("tf_model.h5", "from_tf=True"),
    ],
)
@pytest.mark.parametrize("given", ["file", "folder", "folder with config.json"])
def test_other_formats_are_answered_with_their_conversion(name, advice, given, tmp_path):
    (tmp_path / name).touch()
    if given == "folder with config.json":
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    message = refusal(tmp_path / name if given == "file" else tmp_path)
    assert advice in message
    assert name in message


def test_a_folder_around_a_checkpoint_names_it(tmp_path):
    inner = tmp_path / "models--org--name" / "snapshots" / "c0ffee"
    shutil.copytree(GOLDEN / "bert", inner)
    assert f"did you mean {inner}" in refusal(inner.parents[1])
    assert f"did you mean {inner}" in refusal(inner.parent)


@pytest.mark.parametrize(
    ("model_type", "named"), [("lama", "llama"), ("roberta2", "roberta"), ("qwen3_moe", "qwen3")]
)
def test_unknown_families_are_answered_with_the_nearest(model_type, named, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    message = refusal(tmp_path)
    assert f"the nearest: {named}" in message
    assert len(message) < 200


def test_a_family_like_no_other_is_answered_with_all(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "zzzzzzzz"}')
    assert "albert, bart, bert" in refusal(tmp_path)
