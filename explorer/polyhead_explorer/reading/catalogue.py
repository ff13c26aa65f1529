"""Lists a server's models for the page, with the reason if the page cannot show one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from polyhead.errors import InvalidArgumentError
from polyhead_explorer.reading.river_bank import RiverBankReading, is_river_bank
from polyhead_explorer.reading.whole.decoder import decoder_stack, read_decoder
from polyhead_explorer.reading.whole.pictures import picture_form, picture_stack, read_picture
from polyhead_explorer.reading.whole.text import read_text, text_stack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyhead import AsyncClient, ModelInfo, StackSpec
    from polyhead_explorer.reading.reading import Reading, Subject
    from polyhead_explorer.reading.whole.pictures import Picture, PictureForm

__all__ = ["ENCODER", "Entry", "begin_readings", "describe"]

ENCODER = "encoder"
"""The self-attention of a model; in an encoder-decoder, the encoder's self-attention."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the page's list of models."""

    name: str
    version: int
    title: str
    """A short description, such as ``6 layers of 12 heads``."""
    reason: str
    """The reason why it cannot be shown; empty if it can."""
    num_layers: int
    num_heads: int
    """Number of heads of the first layer."""
    takes_text: bool = True
    has_decoder: bool = False
    """Whether its decoder can be shown, which reads a text of its own."""
    takes_pairs: bool = False
    """Whether the page offers a second text, which becomes one sequence with the text."""
    picture: PictureForm | None = None
    """The form in which it takes pictures; None if it takes none."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON fields."""
        return asdict(self)


def describe(model: ModelInfo) -> Entry:
    """Return the entry of a model."""
    title, reason, num_layers, num_heads = "", model.state_reason, 0, 0
    of_text, of_pictures, decoder = text_stack(model), picture_stack(model), decoder_stack(model)
    stack = of_text or of_pictures
    if stack is not None:
        num_layers, num_heads = stack.num_layers, stack.layers[0].self_attention.num_heads
        title = f"{num_layers} layers of {num_heads} heads"
        if decoder is not None:
            title = f"encoder of {title}, decoder of {_layers_of(decoder)}"
        if of_pictures is not None:
            title += ", text or pictures" if of_text else ", pictures"
    elif model.spec is not None:
        num_layers, num_heads = 1, model.spec.num_heads
        title = f"one block of {num_heads} heads"
    takes_text = of_text is not None or model.spec is not None
    if model.is_ready:
        reason = _reason_not_shown(model)
    return Entry(
        model.name,
        model.version,
        title,
        reason,
        num_layers,
        num_heads,
        takes_text,
        decoder is not None,
        _takes_pairs(of_text, of_pictures),
        picture_form(model, of_pictures) if of_pictures else None,
    )


def _reason_not_shown(model: ModelInfo) -> str:
    if text_stack(model) or picture_stack(model) or is_river_bank(model):
        return ""
    if model.spec is not None:
        return "it takes embeddings, not text"
    if model.whole is not None:
        first = model.whole.stacks[0]
        if first.layers[0].cross_attention is not None:
            return f"its {first.name} needs an encoder's output, and it has no encoder"
        if model.whole.has_tokenizer and first.input != "token_ids":
            return f"its {first.name} takes {first.input}, not text"
        takes = " and ".join(dict.fromkeys(stack.input for stack in model.whole.stacks))
        return f"it has no tokenizer, and takes {takes}"
    return "it is not an attention model of polyhead"


def _takes_pairs(of_text: StackSpec | None, of_pictures: StackSpec | None) -> bool:
    """Whether a model is made for texts, and its tokens look at later ones too.

    Such models read pairs, and others continue texts. A description does not say whether the
    model's tokenizer joins two texts. If it does not, the server's error says so.
    """
    if of_text is None or of_pictures is not None:
        return False
    return not of_text.layers[0].self_attention.is_causal


def _layers_of(stack: StackSpec) -> str:
    return f"{stack.num_layers} of {stack.layers[0].self_attention.num_heads}"


async def begin_readings(
    client: AsyncClient, subject: Subject, picture: Picture | None = None
) -> Mapping[str, Reading]:
    """Split a text into tokens, or a picture into patches. No layer runs. Raises PolyheadError.

    Returns the readings by attention: ENCODER, or "decoder" and "cross" if there is a decoder's
    text.
    """
    name = subject.model
    model = await client.model(name, subject.version)
    if picture is not None:
        stack = picture_stack(model)
        if stack is None:
            raise InvalidArgumentError(f"model {name} takes no pictures")
        return {ENCODER: await read_picture(client, model, stack, picture)}
    if subject.decoder_text is not None:
        if decoder_stack(model) is None:
            raise InvalidArgumentError(f"model {name} has no decoder beside an encoder of texts")
        return await read_decoder(
            client, model, subject.text, subject.decoder_text, subject.text_pair
        )
    if is_river_bank(model):
        if subject.text_pair is not None:
            raise InvalidArgumentError(f"model {name} takes one text: leave the second text out")
        return {ENCODER: RiverBankReading(client, model, subject.text)}
    stack = text_stack(model)
    if stack is None:
        reason = describe(model).reason or "it takes pictures"
        raise InvalidArgumentError(f"model {name} cannot be shown as text: {reason}")
    return {ENCODER: await read_text(client, model, stack, subject.text, subject.text_pair)}
