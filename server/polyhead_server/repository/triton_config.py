"""Reads from Triton's config.pbtxt whether a model's first axis is a batch axis."""

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
    """Read the max_batch_size that a model's folder declares; 0 if it declares no batch axis.

    Raises ModelFileError if the file is not a model configuration.
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
        raise ModelFileError(f"its {CONFIG_FILE} is not a model configuration: {error}") from error
    return max(config.max_batch_size, 0)
