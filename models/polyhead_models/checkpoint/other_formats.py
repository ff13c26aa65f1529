"""Explains why a path is not a checkpoint, and how to convert other formats to one."""

from __future__ import annotations

import re
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.families.settings import CONFIG_FILE
from polyhead_models.checkpoint.files import CheckpointError, readable

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["check_is_checkpoint", "nearest_families"]

_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_HUB_ADDRESS = re.compile(r"(?:hf:/+|https?:/+huggingface\.co/+)(?P<id>[^?#]+?)(?:/tree/[^/]*)?/*")
"""Addresses of the hub, as pathlib leaves them, which makes one slash of two."""
_SAVE = "AutoModel.from_pretrained(FOLDER{more}).save_pretrained(NEW_FOLDER)"
_GGUF = (
    "is GGUF, which is mostly quantised; use the checkpoint that it was made of, or let "
    f"transformers convert it: {_SAVE.format(more=', gguf_file=FILE')} needs the package gguf"
)
_PICKLE = (
    "is a pickle, as torch.save writes it, which can run code when it is loaded; convert it to "
    f"safetensors where you trust it: {_SAVE.format(more='')} for a checkpoint of transformers, "
    "or safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE) for a state "
    "dict, which 'polyhead export torch' takes"
)
_TENSORFLOW = (
    "is TensorFlow's; convert it with transformers 4 and TensorFlow: "
    f"{_SAVE.format(more=', from_tf=True')}"
)
_FORMATS = {
    ".gguf": _GGUF,
    ".pt": _PICKLE,
    ".pth": _PICKLE,
    ".bin": _PICKLE,
    ".ckpt": _PICKLE,
    ".h5": _TENSORFLOW,
    ".safetensors": (
        "is a file; expected its folder, with config.json beside it. 'polyhead export torch' takes "
        "the state dict of a torch.nn.MultiheadAttention"
    ),
    ".onnx": (
        "is ONNX already; the server takes it as NAME/1/model.onnx in the folder that --models "
        "names"
    ),
}
_BESIDE_CONFIG = (".gguf", ".pt", ".pth", ".ckpt", ".h5")
"""Suffixes of weights that are explained in a folder with config.json. files.py explains .bin."""


def check_is_checkpoint(folder: Path) -> None:
    """Raise CheckpointError unless the path is a folder with config.json and weights."""
    if not folder.is_dir():
        raise CheckpointError(_explain_path(folder))
    with suppress(PermissionError):  # reading config.json raises the error
        _check_content(folder)


def _check_content(folder: Path) -> None:
    if not (folder / CONFIG_FILE).exists():
        if file := _file_with(folder, tuple(_FORMATS)):
            raise CheckpointError(_explain_file(file))
        for inner in sorted(folder.glob(f"*/{CONFIG_FILE}")) or sorted(
            folder.glob(f"snapshots/*/{CONFIG_FILE}")  # the hub's cache
        ):
            raise CheckpointError(
                f"{folder} holds no {CONFIG_FILE}; did you mean {inner.parent}, which does?"
            )
    elif not any(folder.glob("*.safetensors*")) and (file := _file_with(folder, _BESIDE_CONFIG)):
        raise CheckpointError(_explain_file(file))


def nearest_families(model_type: str, model_types: Collection[str]) -> str:
    """Name the families with the most similar names, or else all families."""
    near = get_close_matches(model_type, model_types, n=3)
    if not near:
        return f"expected one of {', '.join(sorted(model_types))}"
    return f"the nearest: {', '.join(near)}; 'polyhead export checkpoint --help' lists all"


def _explain_path(path: Path) -> str:
    if path.exists():
        return _explain_file(path)
    text = f"{path} is not a folder; expected one with {CONFIG_FILE} and model.safetensors"
    address = _HUB_ADDRESS.fullmatch(str(path))
    name = address["id"] if address else str(path)
    if _HUB_ID.fullmatch(name):
        text += (
            f". If it is a model of the Hugging Face hub, download it first: hf download {name} "
            f"--local-dir {name.rpartition('/')[2]} (pip install huggingface_hub)"
        )
    return text


def _explain_file(file: Path) -> str:
    model_types = _FORMATS.get(file.suffix.lower())
    return (
        f"{readable(str(file))} {model_types or f'is a file; expected a folder with {CONFIG_FILE}'}"
    )


def _file_with(folder: Path, suffixes: tuple[str, ...]) -> Path | None:
    return next((f for f in sorted(folder.iterdir()) if f.suffix.lower() in suffixes), None)
