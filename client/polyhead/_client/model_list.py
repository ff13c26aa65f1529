"""A list of models that notebooks show as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead._html import html_table
from polyhead.types import ModelInfo

if TYPE_CHECKING:
    from polyhead.types import StackSpec

__all__ = ["ModelList"]

_HEADINGS = ("Model", "Version", "Kind", "Source", "State")


class ModelList(list[ModelInfo]):
    """Models, by name and then version."""

    def _repr_html_(self) -> str:
        rows = (
            (
                model.name,
                model.version,
                _kind(model),
                model.provenance.source if model.provenance else "",
                _state(model),
            )
            for model in self
        )
        return html_table(rows, headings=_HEADINGS)


def _kind(model: ModelInfo) -> str:
    if model.whole is not None:
        return "; ".join(map(_stack, model.whole.stacks))
    if model.spec is not None:
        return f"one block of {model.spec.num_heads} heads, width {model.spec.embed_dim}"
    return ""


def _stack(stack: StackSpec) -> str:
    heads = stack.layers[0].self_attention.num_heads
    return f"{stack.name}: {stack.num_layers} layers of {heads} heads, width {stack.hidden_size}"


def _state(model: ModelInfo) -> str:
    state = "ready" if model.is_ready else "cannot be called"
    return f"{state}: {model.state_reason}" if model.state_reason else state
