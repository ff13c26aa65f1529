"""Reads the input files of `polyhead attend`, and writes its result files."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead._arguments.arrays import ArraySpec, check_is_embedding
from polyhead.cli.command import UsageError
from polyhead.cli.output_paths import check_file, write_npz, writing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.types import AttentionResult

__all__ = ["AttendInput", "arrays_of", "check_out", "read_array", "read_input", "save"]

_DAMAGE = (
    *(ValueError, EOFError, KeyError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
    *(SyntaxError, TokenError),  # the header of an array is Python, which NumPy parses
)
"""Exceptions that NumPy raises for damaged files, and for arrays of Python objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttendInput:
    """The content of an input file."""

    query: NDArray[Any]
    """(batch_size, q_seq_len, embed_dim), or (batch_size, num_heads, q_seq_len, head_dim)."""
    key: NDArray[Any] | None = None
    value: NDArray[Any] | None = None
    attn_mask: NDArray[Any] | None = None
    kv_lengths: NDArray[Any] | None = None
    key_padding_mask: NDArray[Any] | None = None
    positions: NDArray[Any] | None = None
    key_positions: NDArray[Any] | None = None
    tokens: NDArray[Any] | None = None
    """(q_seq_len,) or (batch_size, q_seq_len): the words, if the file has them."""

    def words(self, text: str | None, sequence: int) -> list[str] | None:
        """Return the words of one sequence's queries; None if they are unknown.

        ``text``: words separated by spaces; if None, use the file's. Raises UsageError if their
        number is wrong, or if the batch has no such sequence.
        """
        batch_size, q_seq_len = self.query.shape[0], self.query.shape[-2]
        if not 0 <= sequence < batch_size:
            raise UsageError(
                f"--sequence is {sequence}; the batch has {batch_size}, counted from 0"
            )
        words = self._tokens_of(sequence) if text is None else text.split()
        if words is not None and len(words) != q_seq_len:
            raise UsageError(f"expected {q_seq_len} tokens, as long as query; got {len(words)}")
        return words

    def _tokens_of(self, sequence: int) -> list[str] | None:
        if self.tokens is None:
            return None
        row = self.tokens if self.tokens.ndim == 1 else self.tokens[sequence]
        return [str(token) for token in row]


_NAMES = {field.name for field in fields(AttendInput)}


def read_input(path: str) -> AttendInput:
    """Read a .npy or .npz file.

    Raises UsageError unless it holds arguments of attend; InvalidArgumentError for texts and ids.
    """
    content = _load(path)
    arrays = {"query": content} if isinstance(content, np.ndarray) else content
    if "query" not in arrays or not arrays.keys() <= _NAMES:
        raise UsageError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; expected query, and otherwise "
            f"only {', '.join(sorted(_NAMES))}"
        )
    for name in ("query", "key", "value"):
        if name not in arrays:
            continue
        check_is_embedding(name, ArraySpec(arrays[name].dtype, arrays[name].shape))
        if arrays[name].ndim == 2:
            arrays[name] = arrays[name][None]
    inputs = AttendInput(**arrays)
    _check_shapes(path, inputs)
    return inputs


def read_array(path: str) -> NDArray[Any]:
    """Read a .npy file. Raises UsageError unless it holds one array."""
    content = _load(path)
    if not isinstance(content, np.ndarray):
        raise UsageError(f"{path} holds several arrays; expected a .npy file, which holds one")
    return content


def check_out(path: str, *, has_several: bool) -> None:
    """Raise UsageError for a path that cannot hold the result."""
    suffix = Path(path).suffix
    if suffix not in {".npy", ".npz"}:
        raise UsageError(f"--out is {path}; expected a name that ends in .npy or .npz")
    if has_several and suffix == ".npy":
        raise UsageError(
            f"--out is {path}, which holds one array; use .npz to save weights and vectors too"
        )
    check_file(path)


def save(path: str, result: AttentionResult) -> None:
    """Write the arrays of a result. Raises UsageError if the file cannot be written."""
    arrays: dict[str, Any] = arrays_of(result)
    with writing(path):
        if Path(path).suffix == ".npy":
            np.save(path, arrays["output"])
        else:
            write_npz(path, arrays)


def arrays_of(result: AttentionResult) -> dict[str, NDArray[Any]]:
    """Return the result's arrays by name; vectors of heads are ``head_vectors.query`` and so on."""
    arrays = {name: getattr(result, name) for name in ("output", "attn_weights", "top_keys")}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if result.head_vectors is not None:
        vectors = result.head_vectors.arrays()
        arrays |= {f"head_vectors.{kind}": array for kind, array in vectors.items()}
    return arrays


def _load(path: str) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Read the array of a .npy file, or the arrays of an .npz file by name. Raises UsageError."""
    try:
        with Path(path).open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else dict(content)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}{_advice(path)}") from error
    except _DAMAGE as error:
        # NumPy's own message suggests unpickling the file, which would run code from it.
        message = f"{path} is not a .npy or .npz file of plain arrays, or damaged{_advice(path)}"
        raise UsageError(message) from error


def _advice(path: str) -> str:
    """Say what takes texts, if the name is not that of an array's file."""
    if Path(path).suffix in (".npy", ".npz"):
        return ""
    return "; expected a .npy or .npz file of embeddings (polyhead forward takes texts)"


def _check_shapes(path: str, inputs: AttendInput) -> None:
    """Check the shapes that labels depend on; the client checks the others."""
    if inputs.query.ndim not in (3, 4):
        raise UsageError(
            f"{path}: expected query of shape (batch_size, seq_len, width), or (seq_len, width) "
            "for one sequence, or (batch_size, num_heads, seq_len, head_dim) for a model without "
            f"input projections; it has shape {inputs.query.shape}"
        )
    shared, by_sequence = inputs.query.shape[-2:-1], (inputs.query.shape[0], inputs.query.shape[-2])
    if inputs.tokens is not None and inputs.tokens.shape not in (shared, by_sequence):
        raise UsageError(
            f"{path}: tokens has shape {inputs.tokens.shape}; expected (q_seq_len,) = {shared} or "
            f"(batch_size, q_seq_len) = {by_sequence}"
        )
