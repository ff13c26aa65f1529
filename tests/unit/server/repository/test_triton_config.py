"""What is read of a model's config.pbtxt, however much else it holds."""

from __future__ import annotations

import os
import sys

import pytest

from polyhead_server.errors import ModelFileError
from polyhead_server.repository.triton_config import TritonConfig, read_config


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "config.pbtxt").write_text(text, "utf-8")
        return read_config(tmp_path)

    return read


def test_without_a_file_there_is_no_batch_axis_and_the_usual_name(tmp_path):
    assert read_config(tmp_path) == TritonConfig(0, "model.onnx")


WHOLE = """
# written by hand: a bracket [ in a comment, and "a quote
name: "x" # }
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "a" data_type: TYPE_FP32 dims: [ -1, 3 ] reshape { shape: [ ] } } ]
output { name: "b ] } \\" >" data_type: TYPE_STRING label_filename: 'l " [' }
instance_group [ { count: 2 kind: KIND_GPU gpus: [0, 1] } ],
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 };
parameters { key: "k" value: { string_value: "v" } }
parameters: [ { key: "k" value < string_value: 'v' 'w' > } ]
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }
version_policy: { specific { versions: [1, 3] } }
ensemble_scheduling { step [ { model_name: "p" model_version: -1 } ] }
model_warmup [{ name: "w" inputs { key: "i" value: { dims: 3 zero_data: true } } }]
cc_model_filenames { key: "7.5" value: "m.plan" }
response_cache { enable: true }
default_model_filename: "net.onnx"
backend: "onnxruntime"
"""


@pytest.mark.parametrize("part", ["a {", "input {", "a: [", "a: <", "a { b: {"])
def test_deeply_nested_fields_are_refused(read, part):
    with pytest.raises(ModelFileError, match=r"its config\.pbtxt is not a model configuration"):
        read(part * 5000)


def test_fields_of_all_forms_are_skipped(read):
    assert read(WHOLE) == TritonConfig(8, "net.onnx")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('default_model_filename: "net.onnx"', "net.onnx"),
        ('default_model_filename: "net.onnx" backend: "onnxruntime"', "net.onnx"),
        ('default_model_filename: "net.onnx" platform: "onnxruntime_onnx"', "net.onnx"),
        ('default_model_filename: "model.py" backend: "python"', "model.onnx"),
        ('default_model_filename: "model.plan" platform: "tensorrt_plan"', "model.onnx"),
        ('default_model_filename: ""', "model.onnx"),
    ],
)
def test_another_name_counts_for_models_of_onnx_runtime(read, text, name):
    assert read(text).model_file == name


@pytest.mark.parametrize("name", ["/etc/passwd", "../net.onnx", "a/../../b", "..", "a\\000b"])
def test_a_name_outside_of_the_version_is_refused(read, name):
    with pytest.raises(ModelFileError, match=r"config.pbtxt has the default_model_filename"):
        read(f'default_model_filename: "{name}"')


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: x",
        "max_batch_size: [8]",
        "max_batch_size: 8 max_batch_size: 9",
        "input [",
        "input [ { ]",
        "]",
        "name: 'x",
        "max_batch_size: " + "9" * 10_000,
        "[" * 10_000,
    ],
)
def test_what_is_no_configuration_is_refused_in_a_few_words(read, text):
    with pytest.raises(ModelFileError, match=r"^its config.pbtxt is not a model conf") as caught:
        read(text)
    assert len(str(caught.value)) < 200


def test_an_error_names_its_line(read):
    with pytest.raises(ModelFileError, match="configuration: line 5 cannot be read"):
        read("input [\n{\n}\n] name: 'y'\nmax_batch_size: x")


def test_bytes_that_are_not_utf_8_are_refused(tmp_path):
    (tmp_path / "config.pbtxt").write_bytes(b'name: "\xff"')
    with pytest.raises(ModelFileError, match=r"its config.pbtxt is not UTF-8"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "its config.pbtxt is not a file; expected a file"),
        (lambda path: os.mkfifo(path), "its config.pbtxt is not a file; expected a file"),  # noqa: PLW0108 - Windows has no such function
        (lambda path: path.symlink_to("nowhere"), "its config.pbtxt is a link to a file that does"),
        (lambda path: path.symlink_to(path), "its config.pbtxt is a link to a file that does not"),
    ],
    ids=["folder", "pipe", "link to nothing", "link to itself"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="it has no such pipes")
def test_what_is_no_file_is_refused(tmp_path, make, reason):
    make(tmp_path / "config.pbtxt")
    with pytest.raises(ModelFileError, match=reason):
        read_config(tmp_path)


def test_a_configuration_in_a_linked_file_is_read(tmp_path):
    (tmp_path / "kept").write_text("max_batch_size: 3")
    (tmp_path / "config.pbtxt").symlink_to("kept")
    assert read_config(tmp_path).max_batch_size == 3
