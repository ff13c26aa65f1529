"""Which folders and files are versions of a model, in either of Triton's two forms."""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import onnx
import pytest
from loads import load_model, load_repository
from onnx import TensorProto, helper, numpy_helper

from polyhead_models.store import StoreError, write_model
from polyhead_server.engine.model import Model
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.errors import ModelFileError, ModelUnavailableError, StartupError
from polyhead_server.repository.layout import graph_file, versions_of
from polyhead_server.repository.repository import UnavailableModel

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links take rights there")
ADDENDS = np.arange(1000, dtype=np.float32)


def write_in_two_files(folder):
    """Write a graph that adds ADDENDS: model.onnx, and its data in weights.bin."""
    folder.mkdir(parents=True)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1000]) for name in "xy")
    node = helper.make_node("Add", ["x", "addends"], ["y"])
    graph = helper.make_graph(
        [node], "sum", [x], [y], [numpy_helper.from_array(ADDENDS, "addends")]
    )
    opset = helper.make_opsetid("", 17)
    onnx.save_model(
        helper.make_model(graph, ir_version=10, opset_imports=[opset]),
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=10,
    )


def sums(model):
    (result,) = model.run(["y"], {"x": np.ones(1000, np.float32)}, None)
    return np.array_equal(result, ADDENDS + 1)


@pytest.fixture
def load(tmp_path, engine):
    def load(*, all_versions=True):
        return load_repository(tmp_path, engine, all_versions=all_versions)

    return load


@pytest.fixture
def good(tmp_path, onnx_bytes):
    """A repository that holds one good model, called good."""
    write_model(tmp_path, "good", onnx_bytes["plain"])
    return tmp_path


# ---------------------------------------------------------------- models that load


@pytest.mark.parametrize("form", ["1", "1/model.onnx"])
def test_a_model_of_two_files_is_loaded_from_either_form(tmp_path, load, form):
    write_in_two_files(tmp_path / "sum" / form)
    (model,) = load().all()
    assert sums(model)


def test_an_attention_block_is_loaded_from_a_folder(tmp_path, onnx_bytes, load):
    folder = tmp_path / "block" / "1" / "model.onnx"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx_bytes["plain"])
    assert isinstance(load().get("block", 0), Model)


def test_versions_of_one_model_may_have_different_forms(tmp_path, load):
    write_in_two_files(tmp_path / "sum" / "1")
    write_in_two_files(tmp_path / "sum" / "2" / "model.onnx")
    assert versions_of(tmp_path / "sum") == [1, 2]
    assert [sums(model) for model in load().all()] == [True, True]


def test_a_model_of_two_files_is_loaded_while_the_server_runs(good, engine, load):
    repository = load()
    write_in_two_files(good / "sum" / "1" / "model.onnx")
    load_model(repository, good, "sum", engine)
    assert sums(repository.runnable("sum", 0))


@needs_links
@pytest.mark.parametrize("link", ["sum", "sum/1", "sum/1/model.onnx"])
def test_links_to_folders_are_followed(tmp_path, load, link):
    target = tmp_path / ".kept" / link
    write_in_two_files(tmp_path / ".kept" / "sum" / "1" / "model.onnx")
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(target)
    (model,) = load().all()
    assert sums(model)


@needs_links
def test_links_to_files_are_followed(tmp_path, load):
    """Caches of models have such links, and names of their own for what they link to."""
    kept, folder = tmp_path / ".kept", tmp_path / "sum" / "1" / "model.onnx"
    write_in_two_files(kept)
    folder.mkdir(parents=True)
    for name in ("model.onnx", "weights.bin"):
        (kept / name).rename(kept / f"blob-of-{name}")
        (folder / name).symlink_to(kept / f"blob-of-{name}")
    (model,) = load().all()
    assert sums(model)


@pytest.mark.parametrize("form", ["net.onnx", "net.onnx/model.onnx", "files/net.onnx"])
def test_the_configuration_may_give_the_file_another_name(tmp_path, load, form):
    write_in_two_files(tmp_path / "sum" / "1")
    (tmp_path / "sum" / "1").rename(tmp_path / "moved")
    target = tmp_path / "sum" / "1" / form
    target.parent.mkdir(parents=True)
    (tmp_path / "moved" / "model.onnx").rename(target)
    (tmp_path / "moved" / "weights.bin").rename(target.parent / "weights.bin")
    name = form.removesuffix("/model.onnx")
    (tmp_path / "sum" / "config.pbtxt").write_text(f'default_model_filename: "{name}"')
    (model,) = load().all()
    assert sums(model)


# ---------------------------------------------------------------- models that cannot be loaded


def make_link_to_itself(path):
    path.symlink_to(path)


BROKEN = {
    "empty folder": (
        lambda path: path.mkdir(),
        "its model.onnx/model.onnx does not exist; expected the graph's file there, and its data",
    ),
    "folder with another file": (
        lambda path: (path.mkdir(), (path / "net.onnx").touch()),
        "its model.onnx/model.onnx does not exist",
    ),
    "folder in the folder": (
        lambda path: (path / "model.onnx").mkdir(parents=True),
        "its model.onnx/model.onnx is not a file",
    ),
    "data file missing": (
        lambda path: (write_in_two_files(path), (path / "weights.bin").unlink()),
        "it keeps weights in a file of their own, 'weights.bin', which is missing",
    ),
}
if sys.platform != "win32":
    BROKEN |= {
        "pipe": (os.mkfifo, "its model.onnx is not a file; expected a file"),
        "link to nothing": (
            lambda path: path.symlink_to(path / "nowhere"),
            "its model.onnx is a link to a file that does not exist",
        ),
        "link to itself": (make_link_to_itself, "its model.onnx is a link to a file that does not"),
        "link to nothing in the folder": (
            lambda path: (path.mkdir(), (path / "model.onnx").symlink_to("nowhere")),
            "its model.onnx/model.onnx is a link to a file that does not exist",
        ),
    }


@pytest.mark.parametrize(("make", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_version_that_cannot_be_loaded_is_listed_with_the_reason(
    good, load, engine, make, reason
):
    (good / "bad" / "1").mkdir(parents=True)
    make(good / "bad" / "1" / "model.onnx")
    repository = load()
    (bad, _) = repository.all()
    assert isinstance(bad, UnavailableModel)
    assert reason in bad.reason
    assert str(good) not in bad.reason
    with pytest.raises(ModelUnavailableError, match=re.escape(reason)):
        load_model(repository, good, "bad", engine)


@needs_links
def test_a_link_to_no_folder_is_listed_with_the_reason(good, load):
    (good / "good" / "2").symlink_to(good / "nowhere")
    _, bad = load().all()
    assert bad.reason == "its folder is a link to a folder that does not exist"


@needs_links
def test_a_model_that_is_a_link_to_no_folder_is_logged(good, load, engine, caplog):
    (good / "gone").symlink_to(good / "nowhere")
    repository = load()
    assert "folder skipped: 'gone': it is a link to a folder that does not exist" in caplog.text
    with pytest.raises(ModelUnavailableError, match="'gone' cannot be read: it is a link"):
        load_model(repository, good, "gone", engine)


def test_an_older_version_serves_while_the_newer_one_is_an_empty_folder(good, load):
    (good / "good" / "2" / "model.onnx").mkdir(parents=True)
    assert load(all_versions=False).get("good", 0).version == 1


def test_a_repository_of_an_empty_folder_prevents_the_start_with_the_reason(tmp_path, load):
    (tmp_path / "bad" / "1" / "model.onnx").mkdir(parents=True)
    with pytest.raises(StartupError, match=r"bad: its model.onnx/model.onnx does not exist"):
        load()


def test_a_file_that_may_not_be_read_has_the_systems_reason(good, load, monkeypatch):
    refused = good / "good" / "1" / "model.onnx"
    path_open = type(refused).open

    def patched(path, *arguments, **options):
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return path_open(path, *arguments, **options)

    monkeypatch.setattr(type(refused), "open", patched)
    with pytest.raises(ModelFileError, match=r"^its model.onnx cannot be read: Permission denied$"):
        graph_file(good / "good", 1, "model.onnx")


def test_a_version_that_may_not_be_looked_into_is_listed(good, load, monkeypatch):
    """As permissions would forbid it to a user other than root."""
    refused = good / "good" / "2" / "model.onnx"

    def lstat(path):
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return os.lstat(path)

    refused.parent.mkdir()
    monkeypatch.setattr(type(refused), "lstat", lstat)
    assert versions_of(good / "good") == [1, 2]


def test_models_of_other_backends_are_not_seen(good, load):
    for name, file in (("tokenizer", "model.py"), ("engine", "model.plan")):
        (good / name / "1").mkdir(parents=True)
        (good / name / "1" / file).touch()
    (good / "engine" / "config.pbtxt").write_text(
        'platform: "tensorrt_plan" default_model_filename: "model.plan"'
    )
    (good / "tokenizer" / "config.pbtxt").write_text(
        'backend: "python" default_model_filename: "model.py"'
    )
    assert [model.name for model in load().all()] == ["good"]


def test_a_file_outside_of_the_version_is_refused(good, load):
    (good / "bad" / "1").mkdir(parents=True)
    (good / "bad" / "config.pbtxt").write_text('default_model_filename: "../../good/1/model.onnx"')
    bad, _ = load().all()
    assert isinstance(bad, UnavailableModel)
    assert "'../../good/1/model.onnx'; expected the name of a file in the version's folder" in (
        bad.reason
    )


def test_the_exporter_replaces_a_folder_where_it_may_overwrite(tmp_path, onnx_bytes, load):
    write_in_two_files(tmp_path / "sum" / "1" / "model.onnx")
    with pytest.raises(StoreError, match="exists already"):
        write_model(tmp_path, "sum", onnx_bytes["plain"], 1)
    assert isinstance(load().runnable("sum", 0), OnnxModel)
    write_model(tmp_path, "sum", onnx_bytes["plain"], 1, overwrite=True)
    assert isinstance(load().runnable("sum", 0), Model)
    files = sorted(path.name for path in (tmp_path / "sum" / "1").iterdir())
    assert files == ["SHA256SUMS", "model.onnx"]
