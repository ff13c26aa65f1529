"""Damaged files of a version: each is refused for one reason, and other models are loaded."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from golden import GOLDEN
from loads import load_repository
from onnx import TensorProto, helper, numpy_helper
from whole_infer import tokenizer_json

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.checksums import write_checksums
from polyhead_models.export.export import export_block
from polyhead_models.export.whole import export_whole_model
from polyhead_models.store import write_model
from polyhead_server.engine.model import Model
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.errors import ModelFileError
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.loading import load_version
from polyhead_server.repository.repository import UnavailableModel

FLIPS = 40
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links take rights there")
needs_copies = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux's memfd")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, blocks):
    """A repository of a causal block, a wide one, and a whole model."""
    root = tmp_path_factory.mktemp("exported")
    export_block(blocks["causal"], "causal", root)
    export_block(blocks["causal"], "wide", root, max_inline_bytes=0)
    export_whole_model(Checkpoint.open(GOLDEN / "bert"), "bert", root)
    return root


@pytest.fixture
def repository(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "models")


@pytest.fixture
def load(engine, repository):
    """Return a function that loads a version of a model of the repository."""

    def load(name, **limits):
        return load_version(repository / name, 1, engine, 1, LoadLimits(**limits))

    return load


@pytest.mark.parametrize("file", ["causal/1/model.onnx", "bert/1/model.onnx.data"])
def test_a_flipped_bit_anywhere_is_refused(repository, load, file):
    path, numbers = repository / file, random.Random(0)
    content = path.read_bytes()
    for _ in range(FLIPS):
        damaged = bytearray(content)
        damaged[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="is damaged: it differs from its checksum"):
            load(file.split("/")[0])
    path.write_bytes(content)
    load(file.split("/")[0])


def test_others_are_loaded_beside_a_damaged_model(repository, engine):
    with (repository / "wide" / "1" / "model.onnx.data").open("ab") as stream:
        stream.write(b"\0")

    loaded = load_repository(repository, engine)
    assert [type(model) for model in loaded.all()] == [WholeModel, Model, UnavailableModel]


def test_others_are_loaded_whatever_fails(repository, engine):
    class FailingEngine:
        """An engine that has no memory for one model."""

        threads = 1

        def threads_per_model(self, num_models):
            return 1

        def load(self, name, *arguments, **options):
            if name == "bert":
                raise MemoryError
            return engine.load(name, *arguments, **options)

    loaded = load_repository(repository, FailingEngine())
    bad, *others = loaded.all()
    assert bad.reason == "it cannot be loaded; the server's log says why"
    assert [type(model) for model in others] == [Model, Model]


def test_versions_without_checksums_are_loaded_and_logged(repository, engine, load, caplog):
    caplog.set_level(logging.INFO, "polyhead.repository")
    assert isinstance(load("wide"), Model)
    assert not caplog.records
    (repository / "wide" / "1" / "SHA256SUMS").unlink()
    assert isinstance(load("wide"), Model)
    assert [record.message for record in caplog.records] == [
        "files not compared, because the version has no SHA256SUMS"
    ]
    caplog.clear()
    write_two_files(repository / "foreign" / "1")
    load("foreign")
    assert not caplog.records


def test_a_wide_block_gives_the_same_results_as_one_file(repository, load, blocks):
    tokens = np.random.default_rng(0).standard_normal((1, 3, 16)).astype(np.float32)
    feeds = dict.fromkeys(("query", "key", "value"), tokens)
    one, wide = (load(name).run_graph(["output"], feeds, None) for name in ("causal", "wide"))
    np.testing.assert_allclose(wide, one, atol=1e-6)


def write_two_files(folder):
    """Write a graph that adds 0, 1, 2 and so on, which lie in a file of their own."""
    folder.mkdir(parents=True)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [5000]) for name in "xy")
    addends = numpy_helper.from_array(np.arange(5000, dtype=np.float32), "addends")
    node = helper.make_node("Add", ["x", "addends"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "sum", [x], [y], [addends]),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    onnx.save_model(
        model, folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=1
    )


# ---------------------------------------------------------------- files that change meanwhile


@needs_copies
def test_a_foreign_graph_keeps_its_weights_while_its_file_is_truncated(repository, load):
    write_two_files(repository / "foreign" / "1")
    model = load("foreign")
    with (repository / "foreign" / "1" / "w.bin").open("wb"):
        pass
    (sums,) = model.run(["y"], {"x": np.ones(5000, np.float32)}, None)
    np.testing.assert_array_equal(sums, np.arange(5000) + 1)


@needs_copies
def test_a_whole_model_keeps_its_weights_while_its_file_is_written_over(repository, load):
    model = load("bert")
    (stack,) = model.config.stacks
    ids = np.arange(stack.vocab_size)[np.newaxis, : stack.max_length]
    before = output_of(model, ids)
    data = repository / "bert" / "1" / "model.onnx.data"
    with data.open("r+b") as stream:
        stream.write(b"\xff" * data.stat().st_size)
    np.testing.assert_array_equal(output_of(model, ids), before)
    with data.open("r+b") as stream:
        stream.truncate()
    np.testing.assert_array_equal(output_of(model, ids), before)


def output_of(model, ids):
    """Run all segments of a whole model of one stack."""
    (stack,) = model.config.stacks
    x = model.run(stack.embed, {"token_ids": ids}, None)
    for number, (sublayer,) in enumerate(stack.layers):
        block = model.block(stack.name, number, "self")
        (attended,) = block.run_graph(["output"], dict.fromkeys(("query", "key", "value"), x), None)
        feeds = {"hidden_states": x, "attended": attended, "attention_input": x}
        x = model.run(sublayer.leave, feeds, None)
    return x


# ---------------------------------------------------------------- what is no file


def as_pipe(file):
    file.unlink()
    os.mkfifo(file)


def as_folder(file):
    file.unlink()
    file.mkdir()


def as_link_outside(file):
    outside = file.parent.parent.parent / "outside"
    file.rename(outside)
    file.symlink_to(outside)


def as_device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


def truncated(file):
    os.truncate(file, file.stat().st_size // 2)


DAMAGE = [as_pipe, as_folder, as_link_outside, as_device, truncated, Path.unlink]


@needs_links
@pytest.mark.parametrize("has_checksums", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["wide", "bert"])
def test_damaged_weights_are_refused(repository, load, name, damage, has_checksums):
    folder = repository / name / "1"
    damage(folder / "model.onnx.data")
    if not has_checksums:
        (folder / "SHA256SUMS").unlink()
    with pytest.raises(ModelFileError) as caught:
        load(name)
    reason = str(caught.value)
    assert "weights" in reason or "model.onnx.data" in reason
    assert str(repository) not in reason
    assert len(reason) < 200


# ---------------------------------------------------------------- tokenizer, sizes, time


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"version": "1.0", "model": {}}', b"null", b"{}"],
    ids=["empty", "text", "not UTF-8", "deep", "no model", "null", "no keys"],
)
def test_damaged_tokenizers_are_refused(repository, load, content):
    folder = repository / "bert" / "1"
    (folder / "tokenizer.json").write_bytes(content)
    (folder / "SHA256SUMS").unlink()
    write_checksums(folder)
    with pytest.raises(ModelFileError, match=r"its tokenizer\.json (is not a|cannot be)"):
        load("bert")


def test_a_tokenizer_whose_parts_do_not_fit_together_is_refused(repository, load):
    tokenizer = json.loads(tokenizer_json())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[START]", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    test_damaged_tokenizers_are_refused(repository, load, json.dumps(tokenizer).encode())


def test_a_huge_tokenizer_is_not_read(repository, load):
    (repository / "bert" / "1" / "SHA256SUMS").unlink()
    with (repository / "bert" / "1" / "tokenizer.json").open("wb") as stream:
        stream.truncate(10 << 30)
    with pytest.raises(ModelFileError, match="is not a file of at most 134,217,728 bytes"):
        load("bert")


@pytest.mark.parametrize(("file", "size"), [("1/model.onnx", 10 << 30), ("config.pbtxt", 2 << 20)])
def test_huge_files_are_not_read(repository, load, file, size):
    with (repository / "causal" / file).open("ab") as stream:
        stream.truncate(size)
    with pytest.raises(ModelFileError, match=f"{size:,} bytes; at most .* are read"):
        load("causal")


def test_a_graph_without_an_end_is_refused_after_some_time(repository, onnx_bytes, load):
    """Its output goes round a loop that never ends."""
    model = onnx.load_from_string(onnx_bytes["plain"])
    types = {"keep": (TensorProto.BOOL, []), "x": (TensorProto.FLOAT, None)}
    ins, outs = (
        [helper.make_tensor_value_info(f"{name}_{way}", *types[name]) for name in types]
        for way in ("in", "out")
    )
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    nodes = [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in types]
    body = helper.make_graph(nodes, "body", [turn, *ins], outs)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    last = next(node for node in model.graph.node if "output" in node.output)
    last.output[0] = "result"
    model.graph.node.append(helper.make_node("Loop", ["", "true", "result"], ["output"], body=body))
    write_model(repository, "endless", model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"its graph runs for more than 0\.1 s"):
        load("endless", max_check_s=0.1)
