"""Reads the files of a checkpoint, JSON and safetensors, which are untrusted."""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with NumPy, for safetensors
import numpy as np
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "FLOAT_DTYPES",
    "CheckpointError",
    "Tensors",
    "check_no_adapter",
    "read_json_object",
    "readable",
]

TENSORS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors", "adapter_model.bin")
WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*")
"""Patterns of files with a model's weights."""
FLOAT_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Supported types of stored tensors, and the bytes of one number."""

_READ_BYTES = 1 << 24
"""Approximate number of bytes of a tensor that are read at once."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or not supported."""


def readable(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 become ``?``."""
    return name.encode(errors="replace").decode()


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object. Raises CheckpointError."""
    try:
        values = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}; download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a JSON {type(values).__name__}; expected an object")
    return values


def check_no_adapter(folder: Path) -> None:
    """Raise CheckpointError if the folder holds an adapter such as LoRA's.

    transformers applies an adapter that lies beside the weights, so the weights alone are another
    model.
    """
    # not Path.exists, because it raises in a folder without permission; reading config.json raises
    # the better error
    names = [name for name in ADAPTER_FILES if os.path.exists(folder / name)]  # noqa: PTH110
    if not names:
        return
    if any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise CheckpointError(
            f"{folder / names[0]} belongs to an adapter, which changes the weights beside it; "
            "merge it into them with peft (merge_and_unload, then save_pretrained), or move "
            f"{' and '.join(names)} away to export the weights as they are"
        )
    config = read_json_object(folder / ADAPTER_CONFIG) if ADAPTER_CONFIG in names else {}
    base = config.get("base_model_name_or_path")
    raise CheckpointError(
        f"{folder / names[0]} belongs to an adapter, and the weights that it changes are not in "
        f"the folder: they are those of {repr(base) if base else 'the model it was made for'}; "
        "merge it into them with peft (merge_and_unload, then save_pretrained), and export the "
        "result"
    )


@dataclass(frozen=True)
class Tensors:
    """The tensors of one or several safetensors files, read on demand."""

    files: Mapping[str, Path]
    """The file that holds each tensor, by the tensor's name."""
    origin: Path
    """The file or folder of the tensors, for messages."""

    @classmethod
    def of_file(cls, file: Path) -> Tensors:
        """Find the tensors of one safetensors file. Raises CheckpointError."""
        with _open(file) as tensors:
            return cls(dict.fromkeys(tensors.keys(), file), origin=file)

    @classmethod
    def of_folder(cls, folder: Path) -> Tensors:
        """Find the tensors of a checkpoint folder, in one file or in shards.

        Raises CheckpointError.
        """
        if (folder / TENSORS_FILE).exists():
            return cls.of_file(folder / TENSORS_FILE)
        if (folder / INDEX_FILE).exists():
            return cls(_read_index(folder), origin=folder)
        names = sorted(folder.glob("pytorch_model*.bin")) or sorted(folder.glob("*.bin"))
        if names:
            raise CheckpointError(
                f"{folder} holds its weights as {names[0].name}, which can run code when it is "
                "loaded; convert it with transformers: AutoModel.from_pretrained(folder)"
                f".save_pretrained(new_folder) writes {TENSORS_FILE}"
            )
        raise CheckpointError(
            f"{folder} holds neither {TENSORS_FILE} nor {INDEX_FILE}; expected a Hugging Face "
            "checkpoint with one of them"
        )

    def prefixes(self, name: str) -> list[str]:
        """List the prefixes of tensors whose names end in ``name``, such as "" or "bert."."""
        prefixes = (full.removesuffix(name) for full in self.files if full.endswith(name))
        return sorted(prefix for prefix in prefixes if not prefix or prefix.endswith("."))

    def within(self, module: str) -> list[str]:
        """List the tensors of a module and of the modules in it, by their full names."""
        start = bisect_left(self._sorted_names, f"{module}.")
        return [*takewhile(lambda n: n.startswith(f"{module}."), self._sorted_names[start:])]

    @cached_property
    def _sorted_names(self) -> list[str]:
        return sorted(self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape. Raises CheckpointError if there is no such tensor."""
        with self._holding(name) as tensors:
            return tuple(tensors.get_slice(name).get_shape())

    def dtype(self, name: str, shape: tuple[int, ...]) -> str:
        """Return a tensor's stored type, such as BF16, without reading the tensor.

        Raises CheckpointError if it is missing, has another shape than ``shape``, or does not hold
        floating-point numbers.
        """
        with self._holding(name) as tensors:
            return _checked_dtype(tensors, name, shape)

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Read a tensor as float32.

        Raises CheckpointError as ``dtype`` does, and if a number is not finite in float32.
        """
        self.dtype(name, shape)
        array = np.empty(shape, np.float32)
        num_rows = max(1, _READ_BYTES * len(array) // max(1, array.nbytes))
        for start in range(0, len(array), num_rows):
            rows = slice(start, min(start + num_rows, len(array)))
            # opened again for each part, because the pages that were read stay in memory until the
            # file is closed
            with self._holding(name) as tensors, np.errstate(over="ignore"):
                array[rows] = tensors.get_slice(name)[rows]
            if not np.isfinite(array[rows]).all():  # F64 may be beyond float32
                raise CheckpointError(
                    f"tensor {name} holds values that are infinite or NaN in float32; "
                    "the checkpoint is damaged"
                )
        return array

    @contextmanager
    def _holding(self, name: str) -> Iterator[Any]:
        """Open the file that holds a tensor."""
        if name not in self.files:
            raise CheckpointError(f"{self.origin} holds no tensor {name}")
        with _open(self.files[name]) as tensors:
            if name not in tensors.keys():  # noqa: SIM118 - safe_open is not a mapping
                raise CheckpointError(
                    f"{INDEX_FILE} says that {self.files[name].name} holds tensor {name}; it does "
                    "not: download both again"
                )
            yield tensors


def _checked_dtype(tensors: Any, name: str, shape: tuple[int, ...]) -> str:  # noqa: ANN401 - safetensors has no types
    info = tensors.get_slice(name)
    dtype: str = info.get_dtype()
    if dtype not in FLOAT_DTYPES:  # before the shape, because packed numbers have another shape
        raise CheckpointError(
            f"tensor {name} is stored as {dtype}; expected one of {', '.join(FLOAT_DTYPES)}: use "
            "the checkpoint as it was before quantisation"
        )
    if tuple(info.get_shape()) != shape:
        raise CheckpointError(
            f"tensor {name} has shape {tuple(info.get_shape())}; expected {shape}"
        )
    return dtype


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """Open a safetensors file; opening checks its header against its size."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing or not a file; download it again")
    _check_is_no_pickle(file)
    try:
        with safe_open(file, framework="np") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not an intact safetensors file: {error}; download it again (a Git LFS "
            "pointer is not the file itself)"
        ) from error


def _check_is_no_pickle(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            start = stream.read(256)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    is_archive = start.startswith(b"PK\3\4") and b"data.pkl" in start
    if is_archive or start.startswith(b"\x80\x02\x8a\x0a"):  # torch.save's older format
        raise CheckpointError(
            f"{file} is a pickle, as torch.save writes it, which can run code when it is loaded; "
            "save the state dict as safetensors instead: safetensors.torch.save_file("
            "torch.load(file, weights_only=True), new_file)"
        )


def _read_index(folder: Path) -> dict[str, Path]:
    """Map tensors to their shards, which must be plain names of files in the index's folder."""
    index = folder / INDEX_FILE
    shards = read_json_object(index).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index} has no weight_map; expected tensor names and their shards")
    for name, shard in shards.items():
        if not isinstance(shard, str) or not shard or shard in {".", ".."} or {*"/\\\0"} & {*shard}:
            raise CheckpointError(
                f"{index} puts tensor {name} into {shard!r}; expected the plain name of a file "
                "in the same folder"
            )
    return {name: folder / shard for name, shard in shards.items()}
