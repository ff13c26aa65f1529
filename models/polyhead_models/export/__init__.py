"""Exports a block as a model into a repository."""

from polyhead_models.export.export import export_block

__all__ = ["export_block"]
