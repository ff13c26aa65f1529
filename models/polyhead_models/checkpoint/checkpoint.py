"""Opens a checkpoint of Hugging Face, and reads the attention of its layers.

A checkpoint is a folder with ``config.json``, and ``model.safetensors`` or its shards.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyhead_models.blocks import make_block
from polyhead_models.checkpoint.families.settings import CONFIG_FILE, Settings
from polyhead_models.checkpoint.files import (
    CheckpointError,
    Tensors,
    check_no_adapter,
    read_json_object,
    readable,
)
from polyhead_models.checkpoint.layout import Module
from polyhead_models.checkpoint.other_formats import check_is_checkpoint
from polyhead_models.checkpoint.supported import custom_code, find_family
from polyhead_models.config import MAX_DIM, AttentionConfig, ConfigError
from polyhead_models.names import name_of_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    import numpy as np
    from numpy.typing import NDArray

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.checkpoint.designs.design import StackDesign
    from polyhead_models.checkpoint.families.family import AttentionLocation, Family
    from polyhead_models.checkpoint.layout import TensorPart

__all__ = ["Checkpoint", "CheckpointError", "CheckpointWarning", "load_checkpoint"]


_MAX_LAYERS = 10_000
"""Most layers of a stack, because they are listed one by one."""


class CheckpointWarning(UserWarning):
    """The exported blocks may differ from the checkpoint's own model."""


def load_checkpoint(
    folder: str | PathLike[str],
    layer: int,
    *,
    kind: str = "self",
    stack: str = "",
    out_proj: bool = True,
) -> AttentionBlock:
    """Import the attention of one layer, counted from 0, of a checkpoint.

    ``kind`` is self or cross. ``stack`` is encoder, decoder, text or vision; empty: the model's
    first stack with such attention. With ``out_proj=False`` the output projection is omitted, and
    the block's output is the heads' concatenated contexts. Weights stored as float16, bfloat16 or
    float64 become float32.

    Raises CheckpointError if the folder is not a checkpoint or is damaged, if its family or variant
    is not supported, and if it has no such layer. Warns with CheckpointWarning if the checkpoint
    has custom code, which is not run.
    """
    checkpoint = Checkpoint.open(folder)
    if checkpoint.warning:
        warnings.warn(checkpoint.warning, CheckpointWarning, stacklevel=2)
    location = checkpoint.locations(stack=stack, kind=kind)[0]
    return checkpoint.load(location, layer, out_proj=out_proj)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint: its settings, and the files of its tensors. No tensor is read yet.

    Every method may raise CheckpointError.
    """

    folder: Path
    model_type: str
    family: Family
    settings: Settings
    tensors: Tensors

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> Checkpoint:
        """Read a folder's config.json, and the names of its tensors."""
        folder = Path(folder)
        check_no_adapter(folder)
        check_is_checkpoint(folder)
        settings = Settings(read_json_object(folder / CONFIG_FILE))
        model_type = settings.get("model_type", str)
        family = find_family(settings, model_type)
        return cls(
            folder=folder,
            model_type=model_type,
            family=family,
            settings=settings.with_aliases(family.aliases),
            tensors=Tensors.of_folder(folder),
        )

    @property
    def name(self) -> str:
        """The folder's name; in the hub's cache, the repository's name."""
        return readable(name_of_folder(self.folder))

    @property
    def warning(self) -> str:
        """A warning that the checkpoint has custom code; empty if it has none.

        transformers runs such code only with trust_remote_code.
        """
        code = custom_code(self.settings)
        return code and (
            f"{self.folder}: {code}; the exported block computes what the {self.model_type} of "
            "transformers computes"
        )

    @property
    def source(self) -> str:
        """The source that the provenance of exported models states."""
        return f"checkpoint {self.name}{', without its own code' if self.warning else ''}"

    def designs(self) -> tuple[StackDesign, ...]:
        """Describe the stacks of the whole model that have tensors in the files."""
        if self.family.whole is None:
            raise CheckpointError(
                f"{self.model_type} is supported layer by layer only: choose --layer or "
                "--all-layers of 'polyhead export checkpoint'"
            )
        saved = {location.stack for location in self.saved_locations()}
        return tuple(d for d in self.family.whole(self.settings) if d.stack in saved)

    def count_layers(self) -> int:
        """Count the layers of all stacks of the whole model."""
        return sum(
            self.num_layers(self.locations(stack=design.stack)[0]) for design in self.designs()
        )

    def locations(self, *, stack: str = "", kind: str = "") -> list[AttentionLocation]:
        """List the locations of a stack and kind; "" for any. Raises if there are none."""
        existing = [loc for loc in self.family.locations if loc.exists(self.settings, 0)]
        matches = [
            location
            for location in existing
            if (stack or location.stack, kind or location.kind) == (location.stack, location.kind)
        ]
        if matches:
            return matches
        requested = " ".join(word for word in (stack, kind) if word)
        has = ", ".join(f"{location.stack} {location.kind}" for location in existing)
        raise CheckpointError(
            f"a {self.model_type} model such as {self.folder} has no {requested} attention; it "
            f"has: {has}"
        )

    def saved_locations(self, *, stack: str = "", kind: str = "") -> list[AttentionLocation]:
        """List the locations with tensors in the files. An encoder may be saved alone."""
        locations = self.locations(stack=stack, kind=kind)
        saved = [location for location in locations if self.saved_labels(location)]
        return saved or locations[:1]

    def saved_labels(self, location: AttentionLocation) -> set[str]:
        """Return the labels of a location's layers with tensors in the files."""
        patterns = [
            re.escape(names.module).replace(re.escape("{layer}"), r"(\d[\w.]*)")
            for names in location.names
        ]
        saved = re.compile(rf"(?:.*\.)?(?:{'|'.join(patterns)})\..+")
        matches = filter(None, map(saved.fullmatch, self.tensors.files))
        return {label for match in matches for label in match.groups() if label}

    def num_layers(self, location: AttentionLocation) -> int:
        """Count the layers of a location."""
        num_layers = location.num_layers(self._settings(location), 0)
        if num_layers > _MAX_LAYERS:
            raise CheckpointError(
                f"{CONFIG_FILE} counts {num_layers} layers; expected at most {_MAX_LAYERS}"
            )
        return num_layers

    def label(self, location: AttentionLocation, layer: int) -> str:
        """Return a layer's label in tensor names (``{layer}``). Equal layers share a label."""
        return location.label(self._settings(location), layer)

    def load(
        self, location: AttentionLocation, layer: int, *, out_proj: bool = True
    ) -> AttentionBlock:
        """Read one layer's attention."""
        config = self.config(location, layer, out_proj=out_proj)
        weights: dict[str, NDArray[np.float32]] = {}
        for part in self.parts(location, layer, config):
            weights |= part.split(self.tensors.read(part.tensor, part.shape))
        return make_block(
            config,
            weights,
            source=self.source,
            family=self.model_type,
            layer=self._module(location, layer).name,
        )

    def parts(
        self, location: AttentionLocation, layer: int, config: AttentionConfig
    ) -> Iterator[TensorPart]:
        """List the tensors of one layer's attention."""
        settings = self._settings(location)
        biased = [name for name, rule in location.biases.items() if rule(settings, layer)]
        return self._module(location, layer).parts(config, biased)

    def config(
        self, location: AttentionLocation, layer: int, *, out_proj: bool = True
    ) -> AttentionConfig:
        """Read the configuration of one layer's attention."""
        settings = self._settings(location)
        self._check_layer(location, layer)
        fields: dict[str, Any] = {
            name: rule(settings, layer) for name, rule in location.config.items()
        }
        _check_widths(fields["embed_dim"], fields["num_heads"], fields.get("head_dim", 0))
        layer_type = location.layer_type(settings, layer)
        if layer_type == "sliding_attention":
            fields["sliding_window"] = location.sliding_window(settings, layer)
        try:
            config = AttentionConfig(**fields, has_out_proj=out_proj)
            if location.rope is None:
                return config
            rotary = location.rope.rotary(settings, layer_type, config.head_dim)
            return replace(config, rotary=location.rope.as_stored(rotary, self.tensors))
        except ConfigError as error:
            raise CheckpointError(
                f"{CONFIG_FILE} does not describe an attention block: {error}"
            ) from error

    def _module(self, location: AttentionLocation, layer: int) -> Module:
        return Module.find(self.tensors, location.names, self.label(location, layer))

    def _check_layer(self, location: AttentionLocation, layer: int) -> None:
        num_layers = self.num_layers(location)
        if not 0 <= layer < num_layers:
            raise CheckpointError(
                f"there is no layer {layer}; the {location.stack} of this checkpoint has the "
                f"layers 0 to {num_layers - 1}"
            )

    def _settings(self, location: AttentionLocation) -> Settings:
        """Return the part of config.json that describes a location's stack."""
        return self.settings.part(location.settings)


def _check_widths(embed_dim: int, num_heads: int, head_dim: int) -> None:
    if not head_dim and embed_dim <= MAX_DIM and embed_dim % num_heads:
        raise CheckpointError(
            f"{CONFIG_FILE}: the width of the embeddings, {embed_dim}, is not a multiple of the "
            f"number of heads, {num_heads}, and it states no width of a head"
        )
