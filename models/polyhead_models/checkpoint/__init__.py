"""A Hugging Face folder, config.json and safetensors: read as attention blocks."""

from polyhead_models.checkpoint.checkpoint import load_checkpoint

__all__ = ["load_checkpoint"]
