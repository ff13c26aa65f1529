"""Checkpoints that are more than their weights: with code of their own, or with an adapter."""

import json
import shutil
import warnings

import pytest
from golden import GOLDEN

from polyhead_models.checkpoint import CheckpointError, CheckpointWarning, load_checkpoint

LOCAL = "modeling_own.OwnLlamaForCausalLM"


@pytest.fixture
def checkpoint(tmp_path):
    """Return a function that copies a recorded Llama, with other settings."""

    def make(**settings):
        folder = tmp_path / "own"
        shutil.copytree(GOLDEN / "llama", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))
        return folder

    return make


@pytest.mark.parametrize(
    ("auto_map", "expected"),
    [
        ({"AutoModelForCausalLM": LOCAL}, f"custom code, '{LOCAL}', which"),
        (
            {"AutoConfig": "c.C", "AutoModel": f"someone/own--{LOCAL}"},
            f"'{LOCAL}' of the repository 'someone/own', which polyhead does not run",
        ),
        ({"AutoBackbone": "m.M"}, "'m.M'"),
        ({"AutoModelForMaskedLM": "b.B", "AutoModel": "a.A"}, "'a.A'"),
    ],
)
def test_code_of_its_own_is_warned_of_and_recorded(checkpoint, auto_map, expected):
    folder = checkpoint(auto_map=auto_map)
    with pytest.warns(CheckpointWarning) as caught:
        block = load_checkpoint(folder, 0)
    (warning,) = caught
    assert warning.filename == __file__
    message = str(warning.message)
    assert message.startswith(f"{folder}: auto_map in config.json names")
    assert expected in message
    assert "computes what the llama of transformers computes" in message
    assert block.provenance.source == "checkpoint own, without its own code"
    assert block.weights_sha256() == load_checkpoint(GOLDEN / "llama", 0).weights_sha256()


@pytest.mark.parametrize(
    "auto_map",
    [
        None,
        {},
        {"AutoConfig": "c.C"},
        {"AutoTokenizer": ["t.T", None], "AutoProcessor": "p.P", "AutoImageProcessor": "i.I"},
        {"AutoModel": None},
    ],
)
def test_code_for_other_things_than_the_model_does_not_matter(checkpoint, auto_map):
    with warnings.catch_warnings(action="error"):
        block = load_checkpoint(checkpoint(auto_map=auto_map), 0)
    assert block.provenance.source == "checkpoint own"


def test_an_unknown_family_with_custom_code_is_reported(checkpoint):
    folder = checkpoint(model_type="own", auto_map={"AutoModel": f"someone/own--{LOCAL}"})
    with pytest.raises(CheckpointError, match="'own', which is not supported") as caught:
        load_checkpoint(folder, 0)
    assert f"'{LOCAL}' of the repository 'someone/own'" in str(caught.value)


@pytest.mark.parametrize("auto_map", [[], "m.M", 1])
def test_an_auto_map_of_another_type_is_refused(checkpoint, auto_map):
    with pytest.raises(CheckpointError, match=r"auto_map is .*; expected dict"):
        load_checkpoint(checkpoint(auto_map=auto_map), 0)


# --- adapters


@pytest.mark.parametrize(
    "names",
    [
        ("adapter_config.json", "adapter_model.safetensors"),
        ("adapter_config.json",),
        ("adapter_model.safetensors",),
        ("adapter_model.bin",),
    ],
)
def test_an_adapter_beside_the_weights_is_refused(checkpoint, names):
    folder = checkpoint()
    for name in names:
        (folder / name).touch()
    with pytest.raises(CheckpointError, match="belongs to an adapter, which changes") as caught:
        load_checkpoint(folder, 0)
    assert f"{folder / names[0]} belongs" in str(caught.value)
    assert f"or move {' and '.join(names)} away" in str(caught.value)
    for name in names:
        (folder / name).unlink()
    assert load_checkpoint(folder, 0).weights


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ({"base_model_name_or_path": "someone/base"}, "they are those of 'someone/base'"),
        ({"base_model_name_or_path": None}, "they are those of the model it was made for"),
        ({}, "they are those of the model it was made for"),
    ],
)
def test_an_adapter_alone_names_its_model(checkpoint, with_config, adapter, expected):
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    if not with_config:
        (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "adapter_model.safetensors").touch()
    with pytest.raises(CheckpointError, match=f"not in the folder: {expected}"):
        load_checkpoint(folder, 0)


def test_an_adapter_without_a_readable_configuration(checkpoint):
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is not JSON"):
        load_checkpoint(folder, 0)
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_model.bin").touch()
    with pytest.raises(CheckpointError, match="those of the model it was made for"):
        load_checkpoint(folder, 0)
