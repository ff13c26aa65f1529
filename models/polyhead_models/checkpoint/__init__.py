"""Reads attention blocks from a Hugging Face folder: config.json and safetensors."""

from polyhead_models.checkpoint.checkpoint import (
    CheckpointError,
    CheckpointWarning,
    load_checkpoint,
)

__all__ = ["CheckpointError", "CheckpointWarning", "load_checkpoint"]
