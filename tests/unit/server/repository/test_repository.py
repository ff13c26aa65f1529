"""Which files of a folder are served as models, which are refused, and how models are found."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys

import numpy as np
import onnx
import pytest
from loads import load_model, load_repository
from onnx import TensorProto, external_data_helper, helper

from polyhead_models.blocks import PROVENANCE_KEY
from polyhead_models.config import CONFIG_KEY
from polyhead_models.store import write_model
from polyhead_server.engine.model import Model
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelUnavailableError,
    NotReadyError,
    StartupError,
)
from polyhead_server.repository.repository import Repository, UnavailableModel
from polyhead_server.services.attention.describe import describe_model


@pytest.fixture
def load(tmp_path, engine):
    def load(*, all_versions=False):
        return load_repository(tmp_path, engine, all_versions=all_versions)

    return load


@pytest.fixture
def good(tmp_path, onnx_bytes):
    """A repository that holds one good model, called good."""
    write_model(tmp_path, "good", onnx_bytes["plain"])
    return tmp_path


def found(repository):
    return [(model.name, model.version, type(model)) for model in repository.all()]


def place(folder, name, content, version="1"):
    (folder / name / version).mkdir(parents=True)
    (folder / name / version / "model.onnx").write_bytes(content)


def with_metadata(content, **changes):
    """Rewrite a model's metadata; None removes an entry."""
    model = onnx.load_from_string(content)
    entries = {prop.key: prop.value for prop in model.metadata_props}
    del model.metadata_props[:]
    helper.set_model_props(model, {k: v for k, v in (entries | changes).items() if v is not None})
    return model.SerializeToString()


def with_config(content, **changes):
    model = onnx.load_from_string(content)
    config = json.loads(next(p.value for p in model.metadata_props if p.key == CONFIG_KEY))
    return with_metadata(content, **{CONFIG_KEY: json.dumps(config | changes)})


# ---------------------------------------------------------------- folders


def test_folders_without_a_model_are_skipped(good, onnx_bytes, load):
    (good / "README.md").write_text("not a model")
    (good / "empty").mkdir()
    (good / "good" / "notes.txt").write_text("not a version")
    (good / "no-file" / "1").mkdir(parents=True)
    place(good, ".hidden", onnx_bytes["plain"])
    assert found(load()) == [("good", 1, Model)]


@pytest.mark.parametrize("name", ["sp ace", "-dash", "ünï", "x" * 129, "new\nline"])
def test_a_folder_whose_name_is_not_a_valid_model_name_is_skipped_and_logged(
    good, onnx_bytes, load, caplog, name
):
    place(good, name, onnx_bytes["plain"])
    assert found(load()) == [("good", 1, Model)]
    assert "folder skipped" in caplog.text


VERSIONS = ["0", "01", "-1", "+1", "1.0", "²", "\u0661", " 1", "1e3", "v1", str(2**63), "9" * 40]


def test_folders_whose_name_is_not_a_version_are_skipped(good, onnx_bytes, load):
    for version in VERSIONS:
        place(good, "odd", onnx_bytes["plain"], version)
    assert found(load()) == [("good", 1, Model)]


def test_the_largest_version_number_can_be_served(tmp_path, onnx_bytes, load):
    place(tmp_path, "late", onnx_bytes["plain"], str(2**63 - 1))
    (model,) = load().all()
    assert describe_model(model).version == 2**63 - 1


def test_versions_are_ordered_as_numbers(tmp_path, onnx_bytes, load):
    for version in ("2", "9", "10"):
        place(tmp_path, "many", onnx_bytes["plain"], version)
    assert found(load()) == [("many", 10, Model)]
    everything = load(all_versions=True)
    assert [model.version for model in everything.all()] == [2, 9, 10]
    assert everything.get("many", 0).version == 10
    assert everything.get("many", 9).version == 9


@pytest.mark.parametrize("layout", ["nothing", "files only", "no version"])
def test_a_folder_without_any_model_prevents_the_start(tmp_path, load, layout):
    if layout == "files only":
        (tmp_path / "model.onnx").write_bytes(b"")
    if layout == "no version":
        (tmp_path / "name").mkdir()
        (tmp_path / "name" / "model.onnx").write_bytes(b"")
    with pytest.raises(StartupError, match=r"--models .*expected <name>/<version>/model.onnx"):
        load()


@pytest.mark.parametrize(
    ("name", "problem"), [("absent", "no such folder"), ("file", "is a file; expected a folder")]
)
def test_a_path_that_is_not_a_folder_prevents_the_start(tmp_path, engine, name, problem):
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=f"--models .*{problem}"):
        load_repository(tmp_path / name, engine)


def refuse(monkeypatch, refused):
    """Make a folder unreadable, as permissions would for a user other than root."""
    iterdir = type(refused).iterdir

    def patched(path):
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(type(refused), "iterdir", patched)


def test_an_unreadable_folder_is_skipped_and_logged(good, load, monkeypatch, caplog):
    (good / "lost+found").mkdir()
    refuse(monkeypatch, good / "lost+found")
    assert found(load()) == [("good", 1, Model)]
    assert "'lost+found': Permission denied" in caplog.text


def test_an_unreadable_repository_prevents_the_start(good, load, monkeypatch):
    refuse(monkeypatch, good)
    with pytest.raises(StartupError, match=r"--models .*cannot be read: Permission denied"):
        load()


# ---------------------------------------------------------------- files


def half(content):
    return content[: len(content) // 2]


def flipped(content):
    return bytes(byte ^ 0xFF for byte in content)


def foreign(_):
    """Make a valid ONNX file that polyhead did not export."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "foreign", [x], [y])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, ir_version=10, opset_imports=[opset]).SerializeToString()


def disguised(content):
    """Make a foreign graph with polyhead's metadata, whose inputs and outputs are scalars."""
    names = {"query", "key", "value", "attn_mask"}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, []) for n in sorted(names)]
    inputs.append(helper.make_tensor_value_info("need_weights", TensorProto.BOOL, []))
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, []) for n in ("output", "attn_weights")
    ]
    nodes = [
        helper.make_node("Identity", ["query"], ["output"]),
        helper.make_node("Identity", ["key"], ["attn_weights"]),
    ]
    graph = helper.make_graph(nodes, "disguised", inputs, outputs)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    model.metadata_props.extend(onnx.load_from_string(content).metadata_props)
    return model.SerializeToString()


def outside(content):
    """Make a graph whose weights lie outside of the model's folder."""
    model = onnx.load_from_string(content)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("_proj.weight"))
    external_data_helper.set_external_data(tensor, location="../../../outside.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return model.SerializeToString()


def not_utf8(content):
    return content.replace(b"random seed 3", b"random seed \xff")


def not_finite(content):
    """Make a graph whose weights are NaN: it loads, and its outputs are NaN."""
    model = onnx.load_from_string(content)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("_proj.weight"))
    shape = tuple(tensor.dims)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(shape, np.nan, np.float32), tensor.name))
    return model.SerializeToString()


def with_other_weights(content):
    model = onnx.load_from_string(content)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("_proj.weight"))
    weights = 2 * onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    return model.SerializeToString()


CORRUPTED = {
    "empty": lambda _: b"",
    "text": lambda _: b"this is no model\n" * 99,
    "truncated": half,
    "one byte short": lambda content: content[:-1],
    "flipped": flipped,
    "disguised": disguised,
    "outside": outside,
    "not UTF-8": not_utf8,
    "not finite": not_finite,
    "no provenance": lambda c: with_metadata(c, **{PROVENANCE_KEY: None}),
    "deep": lambda c: with_metadata(c, **{CONFIG_KEY: "[" * 100_000}),
    "no object": lambda c: with_metadata(c, **{CONFIG_KEY: "[1, 2]"}),
    "long text for a number": lambda c: with_config(c, embed_dim="x" * (1 << 20)),
    "surrogates": lambda c: with_metadata(c, **{PROVENANCE_KEY: '{"source": "\\ud800"}'}),
    "unknown key": lambda c: with_config(c, surprise=1),
    "huge number": lambda c: with_config(c, embed_dim=2**70),
    "true for one": lambda c: with_config(c, num_heads=True),
    "other width": lambda c: with_config(c, embed_dim=16),
    "other kdim": lambda c: with_config(c, kdim=9),
    "other heads": lambda c: with_config(c, num_heads=4, head_dim=2),
    "no output projection": lambda c: with_config(c, has_out_proj=False, head_dim=5),
    "other causality": lambda c: with_config(c, is_causal=True),
}


@pytest.mark.parametrize("corrupt", CORRUPTED.values(), ids=CORRUPTED.keys())
def test_a_corrupted_file_is_unavailable_with_a_reason_and_the_others_are_served(
    good, onnx_bytes, load, capfd, corrupt
):
    (good.parent / "outside.bin").write_bytes(bytes(4 * 8 * 8))
    corrupted = corrupt(onnx_bytes["plain"])
    assert corrupted != onnx_bytes["plain"]
    place(good, "bad", corrupted)

    repository = load()

    assert found(repository) == [("bad", 1, UnavailableModel), ("good", 1, Model)]
    described = describe_model(repository.find("bad", 0, "name"))
    reason = described.state_reason
    assert reason
    for secret in (str(good), "outside.bin", "model.onnx", "Error", "Attention", "xxx", "0x"):
        assert secret not in reason
    assert len(reason) < 200
    with pytest.raises(ModelUnavailableError) as caught:
        repository.get("bad", 0)
    assert reason in caught.value.message
    # neither ONNX Runtime nor Python writes past our log
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize("made", [foreign, lambda c: with_metadata(c, **{CONFIG_KEY: None})])
def test_a_graph_of_another_exporter_is_served(good, onnx_bytes, load, made):
    place(good, "other", made(onnx_bytes["plain"]))
    repository = load()
    assert found(repository) == [("good", 1, Model), ("other", 1, OnnxModel)]
    assert repository.runnable("other", 0).outputs
    with pytest.raises(ModelUnavailableError, match="Open Inference Protocol") as caught:
        repository.get("other", 0)
    assert caught.value.reason == "NOT_AN_ATTENTION_BLOCK"


@pytest.mark.parametrize("text", ["max_batch_size: x", "input [", "\xff", "max_batch_size: 4"])
def test_an_invalid_config_pbtxt_makes_its_model_unavailable(good, onnx_bytes, load, text):
    place(good, "other", foreign(onnx_bytes["plain"]))
    (good / "other" / "config.pbtxt").write_bytes(text.encode("latin-1"))
    repository = load()
    assert found(repository)[1] == ("other", 1, UnavailableModel)
    assert "config.pbtxt" in repository.find("other", 0, "name").reason


def test_an_older_version_is_served_if_the_newest_is_corrupt(good, onnx_bytes, load, caplog):
    place(good, "good", half(onnx_bytes["plain"]), "2")
    repository = load()
    assert repository.get("good", 0).version == 1
    assert found(repository) == [("good", 1, Model), ("good", 2, UnavailableModel)]
    with pytest.raises(ModelUnavailableError, match="version 2 could not be loaded"):
        repository.get("good", 2)
    assert "model unavailable" in caplog.text


def test_a_repository_without_a_valid_model_prevents_the_start_with_the_reasons(tmp_path, load):
    place(tmp_path, "bad", b"")
    place(tmp_path, "worse", b"no model")
    with pytest.raises(
        StartupError, match=r"--models .*bad: ONNX Runtime cannot .*worse: the server cannot"
    ):
        load()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda m: m.graph.node.add(op_type="Frobnicate", output=["z"]), "operator Frobnicate"),
        (
            lambda m: external_data_helper.convert_model_to_external_data(
                m, location="weights.bin", size_threshold=0
            ),
            "'weights.bin', which is missing",
        ),
    ],
    ids=["operator", "external data"],
)
def test_what_a_model_lacks_is_named_to_callers_and_at_the_start(
    tmp_path, onnx_bytes, load, damage, expected
):
    model = onnx.load_from_string(onnx_bytes["plain"])
    damage(model)
    onnx.save(model, tmp_path / "model.onnx")
    place(tmp_path, "bad", (tmp_path / "model.onnx").read_bytes())
    with pytest.raises(StartupError, match=f"no model there can be loaded .bad: .*{expected}"):
        load()
    write_model(tmp_path, "good", onnx_bytes["plain"])
    with pytest.raises(ModelUnavailableError, match=expected) as caught:
        load().runnable("bad", 0)
    assert caught.value.reason == "MODEL_INVALID"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_path_that_is_not_utf8_is_not_blamed_on_the_models(tmp_path, onnx_bytes, engine, load):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    write_model(tmp_path / "link", "good", onnx_bytes["plain"])
    with pytest.raises(StartupError, match=r"--models .*the path is not UTF-8"):
        load_repository(folder, engine)
    load_repository(tmp_path / "link", engine)


def test_the_log_has_more_details_than_errors_for_callers(good, onnx_bytes, load, caplog):
    place(good, "bad", with_config(onnx_bytes["plain"], surprise=1))
    with caplog.at_level(logging.WARNING):
        load()
    assert "expected an object with the keys" in caplog.text


# ---------------------------------------------------------------- look-ups


def test_look_ups_fail_while_models_are_being_loaded():
    for ask in (
        lambda: Repository().get("good", 0),
        lambda: Repository().find("good", 0, "name"),
        Repository().all,
        Repository().loaded,
    ):
        with pytest.raises(NotReadyError):
            ask()


@pytest.mark.parametrize(
    "name", [" ", "../good", "%2e%2e", "good\0", "good/1", "x" * 4096, ".", "\U000e0001" * 300]
)
def test_an_invalid_name_is_refused_without_opening_a_file(good, load, monkeypatch, name):
    repository = load()
    monkeypatch.setattr("builtins.open", None)
    with pytest.raises(InvalidRequestError) as caught:
        repository.find(name, 0, "name")
    assert (caught.value.field, caught.value.reason) == ("name", "INVALID_NAME")
    assert len(caught.value.message) < 2500


def test_a_missing_name_is_refused(good, load):
    with pytest.raises(InvalidRequestError, match="name: is required") as caught:
        load().find("", 0, "name")
    assert caught.value.reason == "REQUIRED"


def test_the_error_for_an_unknown_model_lists_some_models(tmp_path, onnx_bytes, load):
    for number in range(13):
        write_model(tmp_path, f"model-{number:02}", onnx_bytes["plain"])
    with pytest.raises(ModelNotFoundError) as caught:
        load().get("model", 0)
    assert caught.value.message.endswith("model-08, model-09 and 3 more")


@pytest.mark.parametrize("version", [2, -1, 2**63 - 1])
def test_the_error_for_an_unknown_version_lists_some_versions(good, load, version):
    with pytest.raises(ModelNotFoundError, match=f"no version {version} .*has 1$") as caught:
        load().get("good", version)
    assert caught.value.reason == "MODEL_VERSION_NOT_FOUND"


def test_a_long_list_of_versions_is_shortened(tmp_path, onnx_bytes, load):
    for version in range(1, 13):
        place(tmp_path, "many", onnx_bytes["plain"], str(version))
    with pytest.raises(ModelNotFoundError, match=r"has 12, 11, .* 3 and 2 more$"):
        load(all_versions=True).get("many", 99)


@pytest.mark.parametrize(("all_versions", "expected"), [(False, 2), (True, 3)])
def test_models_share_the_pool_threads_by_their_number(
    tmp_path, onnx_bytes, engine, all_versions, expected
):
    for name in ("a", "b", "b"):
        write_model(tmp_path, name, onnx_bytes["plain"])
    seen = []

    class CountingEngine:
        """An engine that notes how many models share its pool threads."""

        threads = 9

        def threads_per_model(self, num_models):
            return 9

        def load(self, *arguments, num_models):
            seen.append(num_models)
            return engine.load(*arguments)

    repository = load_repository(tmp_path, CountingEngine(), all_versions=all_versions)
    assert set(seen) == {expected}
    write_model(tmp_path, "c", onnx_bytes["plain"])
    for name in ("c", "c", "a"):
        seen.clear()
        load_model(repository, tmp_path, name, CountingEngine(), all_versions=all_versions)
        assert seen == [expected + 1]


def test_fewer_threads_for_many_models_are_logged(tmp_path, onnx_bytes, engine, caplog):
    caplog.set_level("INFO", "polyhead.repository")
    for name in ("a", "b", "c"):
        write_model(tmp_path, name, onnx_bytes["plain"])
    few = dataclasses.replace(engine, threads=4, max_pool_threads=3)
    load_repository(tmp_path, few)
    assert "runs have 2 threads instead of 4, because 3 models" in caplog.text
    caplog.clear()
    many = dataclasses.replace(engine, threads=4, max_pool_threads=9)
    load_repository(tmp_path, many)
    assert "threads instead of" not in caplog.text
