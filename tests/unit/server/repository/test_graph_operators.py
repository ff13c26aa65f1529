"""What a graph uses is looked at before ONNX Runtime reads the file."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from golden import GOLDEN
from loads import load_repository
from onnx_graphs import chain, choosing, function, model, node

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.errors import ModelFileError
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.graph_operators import check_operators


@pytest.fixture
def check(tmp_path):
    def check(content, **limits):
        file = tmp_path / "model.onnx"
        file.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        check_operators(file, LoadLimits(**limits))

    return check


SERVED = {
    "ONNX": model(node()),
    "ONNX by its name": model(node(domain="ai.onnx")),
    "machine learning": model(node("Normalizer", "ai.onnx.ml", norm="L1")),
    "Microsoft": model(node("Gelu", "com.microsoft")),
    "a graph in a graph": model(*choosing(node("Gelu", "com.microsoft"))),
    "a function of its own": model(
        node("Twice", "own"), functions=[function("Twice", node("Add", inputs=["x", "x"]))]
    ),
    "functions that call each other": model(node("F0", "own"), functions=chain(50)),
    "a domain that no node is of": model(node(), domains=["com.microsoft.nchwc", "other"]),
}


@pytest.mark.parametrize("kind", SERVED)
def test_what_is_served(check, kind):
    check(SERVED[kind])
    session = ort.InferenceSession(
        SERVED[kind].SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert session.run(None, {"x": np.ones((2, 2), np.float32)})[0].shape == (2, 2)


def test_every_operator_of_our_own_exports_is_served(onnx_bytes, check, tmp_path):
    for content in onnx_bytes.values():
        check(content)
    for family in ("bert", "llama", "t5", "clip"):
        checkpoint = Checkpoint.open(GOLDEN / family)
        check_operators(export_whole_model(checkpoint, family, tmp_path).folder / "model.onnx")


NCHWC = node("ReorderInput", "com.microsoft.nchwc")
REFUSED = {
    "a domain of others": (model(node("Foo", "other")), "'Foo' of the domain 'other'; expected"),
    "an operator of the optimiser": (model(NCHWC), "for one kind of CPU; save the model"),
    "in a graph in a graph": (model(*choosing(NCHWC)), "com.microsoft.nchwc"),
    "in a function": (
        model(node("Mine", "own"), functions=[function("Mine", NCHWC)]),
        "com.microsoft.nchwc",
    ),
    "in a graph in a function": (
        model(node("Mine", "own"), functions=[function("Mine", *choosing(NCHWC))]),
        "com.microsoft.nchwc",
    ),
    "in a function that nobody calls": (
        model(node(), functions=[function("Mine", NCHWC)]),
        "com.microsoft.nchwc",
    ),
    "a function by the name of an operator": (
        model(NCHWC, functions=[function("ReorderInput", node(), domain="com.microsoft.nchwc")]),
        "com.microsoft.nchwc",
    ),
    "a compiled graph": (
        model(node("EPContext", "com.microsoft", embed_mode=0, ep_cache_context="/etc/passwd")),
        "'EPContext' of the domain 'com.microsoft'",
    ),
    "Python": (model(node("PyOp", "com.microsoft")), "'PyOp'"),
    "a long name": (model(node("F" * 5000, "other")), "F…' of the domain 'other'"),
    "a function that calls itself": (
        model(node("Mine", "own"), functions=[function("Mine", node("Mine", "own"))]),
        "or themselves",
    ),
    "functions that call each other": (
        model(
            node("A", "own"),
            functions=[function("A", node("B", "own")), function("B", node("A", "own"))],
        ),
        "or themselves",
    ),
    "functions that call each other very deep": (
        model(node("F0", "own"), functions=chain(102)),
        "more than 100 deep",
    ),
    "calls that multiply": (
        model(node("F0", "own"), functions=chain(27, calls=2)),
        "more than 100,000 nodes",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(check, kind):
    content, message = REFUSED[kind]
    with pytest.raises(ModelFileError) as refusal:
        check(content)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_the_last_of_two_names_counts_as_for_protobuf(check):
    content = model(node("Gelu", "com.microsoft"))
    twice = content.graph.node[0].SerializeToString() + NCHWC.SerializeToString()
    merged = model(node())
    del merged.graph.node[:]
    field = b"\x0a" + bytes([len(twice)]) + twice
    graph = merged.graph.SerializeToString() + field
    whole = content.SerializeToString() + b"\x3a" + bytes([len(graph)]) + graph  # merged as well
    with pytest.raises(ModelFileError, match=r"com\.microsoft\.nchwc"):
        check(whole)


def test_a_function_may_be_defined_twice(check):
    """It is not said which is used, so both count."""
    doubled = [function("Mine", node()), function("Mine", NCHWC)]
    with pytest.raises(ModelFileError, match=r"com\.microsoft\.nchwc"):
        check(model(node("Mine", "own"), functions=doubled))


def test_a_graph_that_would_load_for_hours_stops_no_other_model(folder, engine):
    bomb = model(node("F0", "own"), functions=chain(27, calls=2))
    (folder / "other" / "1" / "model.onnx").write_bytes(bomb.SerializeToString())
    repository = load_repository(folder, engine)
    assert "more than 100,000 nodes" in repository.find("other", 0, "model").reason
    assert {each.name for each in repository.loaded()} == {"plain", "rotary"}


@pytest.mark.parametrize(
    "content",
    [
        b"ORTM",
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x0b" * 8,
        model(node()).SerializeToString()[:-3],
        b"\x3a\x02\x0a",
    ],
)
def test_bytes_that_are_no_model(check, content):
    with pytest.raises(ModelFileError, match="cannot read the file as a model"):
        check(content)


def test_the_fields_of_a_file_are_bounded(check):
    with pytest.raises(ModelFileError, match="more than 20 fields"):
        check(model(*[node()] * 20), max_graph_fields=20)


def test_graphs_within_graphs_without_end(check):
    content = b""
    for _ in range(200):
        for field in (0x32, 0x2A, 0x0A):  # a graph in an attribute in a node
            content = bytes([field]) + _varint(len(content)) + content
    with pytest.raises(ModelFileError, match="cannot read the file as a model"):
        check(b"\x3a" + _varint(len(content)) + content)


def _varint(value):
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _varint(value >> 7)
