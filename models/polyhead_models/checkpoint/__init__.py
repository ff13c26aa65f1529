"""Reads attention blocks from a Hugging Face folder: config.json and safetensors."""

from polyhead_models.checkpoint.checkpoint import load_checkpoint

__all__ = ["load_checkpoint"]
