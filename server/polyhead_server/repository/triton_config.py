"""Triton's config.pbtxt, as far as it says whether a model's first axis is a batch axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import text_format

from polyhead_server.errors import ModelFileError
from polyhead_server.inference import grpc_inference_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CONFIG_FILE", "max_batch_size"]

CONFIG_FILE = "config.pbtxt"


def max_batch_size(folder: Path) -> int:
    """Read what a model's folder declares; 0: its first axis is no batch axis, or nothing is said.

    Raises ModelFileError for a file that is no such configuration.
    """
    path = folder / CONFIG_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        return 0
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"its {CONFIG_FILE} cannot be read") from error
    try:
        config = text_format.Parse(text, pb.ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ModelFileError(f"its {CONFIG_FILE} is no model configuration: {error}") from error
    return max(config.max_batch_size, 0)
