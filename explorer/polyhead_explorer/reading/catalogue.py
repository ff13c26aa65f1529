"""Which of a server's models the page can show, and why not the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from polyhead.errors import InvalidArgumentError
from polyhead_explorer.reading.pictures import picture_form, picture_stack, read_picture
from polyhead_explorer.reading.river_bank import RiverBankReading, is_river_bank
from polyhead_explorer.reading.whole import WholeReading, text_stack

if TYPE_CHECKING:
    from polyhead import AsyncClient, ModelInfo
    from polyhead_explorer.reading.pictures import Picture, PictureForm
    from polyhead_explorer.reading.reading import Reading

__all__ = ["Entry", "begin_reading", "describe"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A model, for the page's list."""

    name: str
    version: int
    title: str
    """What it is, in a few words."""
    reason: str
    """Why it cannot be shown; empty: it can."""
    is_causal: bool
    num_layers: int
    num_heads: int
    """Of the first layer."""
    takes_text: bool = True
    picture: PictureForm | None = None
    """How it wants pictures; None: it takes none."""

    def to_json(self) -> dict[str, Any]:
        """Return it for the page."""
        return asdict(self)


def describe(model: ModelInfo) -> Entry:
    """Describe a model for the page's list."""
    title, reason, is_causal, num_layers, num_heads = "", model.state_reason, False, 0, 0
    stack, pictured = text_stack(model), picture_stack(model)
    shown = stack or pictured
    if shown is not None:
        first = shown.layers[0].self_attention
        num_layers, num_heads, is_causal = shown.num_layers, first.num_heads, first.is_causal
        title = f"{num_layers} layers of {num_heads} heads"
        if pictured is not None:
            title += ", text or pictures" if stack else ", pictures"
    elif model.spec is not None:
        num_layers, num_heads, is_causal = 1, model.spec.num_heads, model.spec.is_causal
        title = f"one block of {num_heads} heads"
    takes_text = stack is not None or model.spec is not None
    if model.is_ready:
        reason = _why_not(model)
    return Entry(
        model.name,
        model.version,
        title,
        reason,
        is_causal,
        num_layers,
        num_heads,
        takes_text,
        picture_form(model, pictured) if pictured else None,
    )


def _why_not(model: ModelInfo) -> str:
    if text_stack(model) or picture_stack(model) or is_river_bank(model):
        return ""
    if model.spec is not None:
        return "it takes embeddings, not text"
    if model.whole is not None:
        takes = " and ".join(dict.fromkeys(stack.input for stack in model.whole.stacks))
        return f"it has no tokenizer, and takes {takes}"
    return "it is not an attention model of polyhead"


async def begin_reading(
    client: AsyncClient, name: str, version: int | None, text: str, picture: Picture | None = None
) -> Reading:
    """Make tokens of a text, or patches of a picture. Raises PolyheadError."""
    model = await client.model(name, version)
    if picture is not None:
        pictured = picture_stack(model)
        if pictured is None:
            raise InvalidArgumentError(f"model {name} takes no pictures")
        return await read_picture(client, model, pictured, picture)
    if is_river_bank(model):
        return RiverBankReading(client, model, text)
    stack = text_stack(model)
    if stack is None:
        reason = describe(model).reason or "it takes pictures"
        raise InvalidArgumentError(f"model {name} cannot be shown as text: {reason}")
    return await WholeReading.begin(client, model, stack, text)
