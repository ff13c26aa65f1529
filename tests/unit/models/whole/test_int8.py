"""Whole models with int8 matrices: which kinds, and what their errors are."""

import numpy as np
import onnx
import pytest
from golden import GOLDEN
from whole import SegmentedModel

from polyhead_models.blocks import PROVENANCE_KEY, Provenance
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.config import ConfigError
from polyhead_models.export import whole, whole_errors
from polyhead_models.export.whole import export_whole_model
from polyhead_models.whole_config import MATRIX_KINDS, WholeConfig


def export(family, repository, **options):
    checkpoint = Checkpoint.open(GOLDEN / family)
    return export_whole_model(checkpoint, "m", repository, precision="int8", **options)


def int8_products(folder):
    """Count the products of integers in a model's graph, and in the graphs in it."""

    def count(graph):
        return sum(
            (node.op_type == "MatMulIntegerToFloat")
            + sum(count(a.g) for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
            for node in graph.node
        )

    return count(onnx.load(folder / "model.onnx", load_external_data=False).graph)


# BERT, Llama: projections and networks without and with a gate, in two layers
@pytest.mark.parametrize(("family", "of_network"), [("bert", 2), ("llama", 3)])
def test_kinds_of_matrices_are_int8(family, of_network, tmp_path):
    model = export(family, tmp_path, max_weights_error=1.0)
    num_layers = len(model.config.stacks[0].layers)
    assert model.config.int8 == MATRIX_KINDS
    assert int8_products(model.folder) == num_layers * (4 + of_network)
    for _, _, sublayer in model.config.sublayers():
        assert sublayer.block.precision == "int8"


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "t5-v1_1", "vit", "whisper"])
def test_the_weights_error_is_within_the_bound_and_stated(family, tmp_path):
    model = export(family, tmp_path, max_weights_error=0.4)
    assert 0 < model.config.weights_error <= 0.4
    graph = onnx.load(model.folder / "model.onnx", load_external_data=False)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    provenance = Provenance.from_json(metadata[PROVENANCE_KEY])
    assert 0 < provenance.precision_error < 0.3
    assert provenance.source == f"checkpoint {family}"


def test_kinds_that_move_weights_too_far_stay_float32(tmp_path, monkeypatch):
    errors = {MATRIX_KINDS: 0.3, ("projections", "up"): 0.2, ("up", "down"): 0.02}
    tried = []

    def measure(config, exact, rough, on_layer):
        tried.append(config.int8)
        return whole_errors.WholeErrors(errors[config.int8], 0.01234)

    monkeypatch.setattr(whole, "measure_errors", measure)
    model = export("bert", tmp_path)
    assert tried == [*errors]
    assert (model.config.int8, model.config.weights_error) == (("up", "down"), 0.02)
    assert int8_products(model.folder) == 2 * 2
    assert model.config.stacks[0].layers[0][0].block.precision == "float32"


def test_a_bound_that_no_kind_keeps_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"than 1e-09: by .* with projections and up, .* --max"):
        export("bert", tmp_path, max_weights_error=1e-9)
    assert not list((tmp_path / "m").iterdir())


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_error_that_is_not_a_number_is_refused(tmp_path, monkeypatch, broken):
    monkeypatch.setattr(
        whole, "measure_errors", lambda *_: whole_errors.WholeErrors(broken, broken)
    )
    with pytest.raises(ConfigError, match=f"by {broken} with"):
        export("bert", tmp_path, max_weights_error=1.0)


def test_equal_models_have_no_error(tmp_path):
    model = export("bert", tmp_path)
    errors = whole_errors.measure_errors(model.config, model.folder, model.folder, lambda _: None)
    assert (errors.weights, errors.output) == (0, 0)


def test_the_measured_segments_are_the_models_own(tmp_path):
    """The measured error of the output is that of the exported graphs, run as a whole."""
    model = export("bert", tmp_path / "int8")
    checkpoint = Checkpoint.open(GOLDEN / "bert")
    exact = export_whole_model(checkpoint, "m", tmp_path / "float32")
    (stack,) = model.config.stacks
    probe = whole_errors._random_input(stack)
    expected, output = (
        SegmentedModel(each.folder).forward(stack, probe)[-1] for each in (exact, model)
    )
    error = np.linalg.norm(output - expected) / np.linalg.norm(expected)
    measured = whole_errors.measure_errors(model.config, exact.folder, model.folder, lambda _: None)
    assert measured.output == pytest.approx(error, rel=1e-3)


def test_progress_is_reported_three_times_per_layer(tmp_path):
    layers = []
    export("bert", tmp_path, on_layer=layers.append)
    once = ["encoder layer 0", "encoder layer 1"]
    assert layers == [*once, *once, *(f"{name}, measured" for name in once)]


def test_without_onnx_runtime_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'polyhead\[export,server\]'"):
        export("bert", tmp_path)


def test_unknown_kinds_are_refused(tmp_path):
    text = export("bert", tmp_path).config.to_json().replace('"down"', '"side"')
    with pytest.raises(ConfigError, match=r"int8 is .* expected some of projections, up, down"):
        WholeConfig.from_json(text)
