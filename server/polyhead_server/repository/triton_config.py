"""Reads from Triton's config.pbtxt which file a model is, and whether it has a batch axis."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf import text_format

from polyhead_models.store import MODEL_FILE
from polyhead_server.errors import ModelFileError, quoted
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.files import check_file, exists

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CONFIG_FILE", "TritonConfig", "read_config"]

CONFIG_FILE = "config.pbtxt"
_BACKENDS, _PLATFORMS = {"", "onnxruntime"}, {"", "onnxruntime_onnx"}
"""Backends and platforms, of which a configuration has one, whose models this server can run."""
_COMMENT_STRING_OR_BRACKET = re.compile(
    r"""\#.* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [][{}<>]""", re.VERBOSE
)


class TritonConfig(NamedTuple):
    """The fields of a model's configuration that polyhead reads."""

    max_batch_size: int = 0
    """Declared longest batch axis; 0: the first axis is no batch axis."""
    model_file: str = MODEL_FILE
    """Name of the model's file, or folder of files, in the folder of a version."""


def read_config(folder: Path, max_bytes: int = LoadLimits.max_config_bytes) -> TritonConfig:
    """Read the configuration in a model's folder; the default one if it has none.

    Raises ModelFileError if the file cannot be read, or is not a model configuration.
    """
    path = folder / CONFIG_FILE
    if not exists(path):
        return TritonConfig()
    check_file(path, CONFIG_FILE, "a file", max_bytes)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"its {CONFIG_FILE} is not UTF-8") from error
    try:
        config = text_format.Parse(
            _without_nested_fields(text), pb.ModelConfig(), allow_unknown_field=True
        )
    except text_format.ParseError as error:
        # its message quotes the file, which callers may not read
        raise ModelFileError(
            f"its {CONFIG_FILE} is not a model configuration: line {error.GetLine()} cannot be read"
        ) from error
    return TritonConfig(max(config.max_batch_size, 0), _model_file(config))


def _model_file(config: pb.ModelConfig) -> str:
    name = config.default_model_filename
    if not name or config.backend not in _BACKENDS or config.platform not in _PLATFORMS:
        return MODEL_FILE
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ModelFileError(
            f"its {CONFIG_FILE} has the default_model_filename {quoted(name)}; expected the "
            "name of a file in the version's folder, such as 'model.onnx'"
        )
    return name


def _without_nested_fields(text: str) -> str:
    """Empty the messages and lists in a configuration, and keep its line numbers.

    Raises ModelFileError if brackets do not match.

    The parser skips unknown fields, but not those that are lists of messages without a colon, such
    as `instance_group [ { count: 1 } ]`.
    """
    parts, depth, begin, end = [], 0, 0, 0
    for match in _COMMENT_STRING_OR_BRACKET.finditer(text):
        if match[0] in "[{<":
            begin = begin if depth else match.start()
            depth += 1
        elif match[0] in "]}>":
            depth -= 1
            if depth < 0:
                break
            if depth == 0:
                lines = "\n" * text.count("\n", begin, match.end())
                parts.append(f"{text[end:begin]}{{{lines}}}")
                end = match.end()
    if depth:  # the parser would descend into them, and end the process where they are deep
        raise ModelFileError(
            f"its {CONFIG_FILE} is not a model configuration: its brackets do not match"
        )
    return "".join(parts) + text[end:]
