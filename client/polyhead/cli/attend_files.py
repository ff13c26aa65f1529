"""The files of `polyhead attend`: arrays and words in, results out."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.cli.command import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.types import AttentionResult

__all__ = [
    "AttendInput",
    "check_folder",
    "check_out",
    "check_png",
    "read_array",
    "read_input",
    "save",
]

_DAMAGE = (
    *(ValueError, EOFError, KeyError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
    *(SyntaxError, TokenError),  # the header of an array is Python, which NumPy parses
)
"""What NumPy raises for a file that does not hold the plain arrays that it promises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttendInput:
    """What an input file holds."""

    query: NDArray[Any]
    """(batch_size, q_seq_len, embed_dim), or (batch_size, num_heads, q_seq_len, head_dim)."""
    key: NDArray[Any] | None = None
    value: NDArray[Any] | None = None
    attn_mask: NDArray[Any] | None = None
    kv_lengths: NDArray[Any] | None = None
    positions: NDArray[Any] | None = None
    key_positions: NDArray[Any] | None = None
    tokens: NDArray[Any] | None = None
    """(q_seq_len,) or (batch_size, q_seq_len): the words, if the file names them."""

    def words(self, given: str | None, sequence: int) -> list[str] | None:
        """Words of one sequence's queries; None if they are unknown.

        ``given``: separated by spaces; None: those of the file. Raises UsageError if their number
        is wrong, or if there is no such sequence.
        """
        batch_size, q_seq_len = self.query.shape[0], self.query.shape[-2]
        if not 0 <= sequence < batch_size:
            raise UsageError(
                f"--sequence is {sequence}; the batch has {batch_size}, counted from 0"
            )
        words = self._tokens_of(sequence) if given is None else given.split()
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
    """Read a .npy or .npz file. Raises UsageError if it holds anything but what attend takes."""
    try:
        with Path(path).open("rb") as file:
            content = np.load(file, allow_pickle=False)
            named = {"query": content} if isinstance(content, np.ndarray) else dict(content)
    except OSError as error:
        raise _unreadable(path, error) from error
    except _DAMAGE as error:
        raise _damaged(path) from error
    if "query" not in named or not named.keys() <= _NAMES:
        raise UsageError(
            f"{path} holds {', '.join(sorted(named)) or 'nothing'}; expected query, and none but "
            f"{', '.join(sorted(_NAMES))}"
        )
    for name in ("query", "key", "value"):
        if name in named and named[name].ndim == 2:
            named[name] = named[name][None]
    given = AttendInput(**named)
    _check_shapes(path, given)
    return given


def read_array(path: str) -> NDArray[Any]:
    """Read a .npy file. Raises UsageError if it holds anything but one array."""
    try:
        with Path(path).open("rb") as file:
            content = np.load(file, allow_pickle=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    except _DAMAGE as error:
        raise _damaged(path) from error
    if not isinstance(content, np.ndarray):
        raise UsageError(f"{path} holds several arrays; expected a .npy file, which holds one")
    return content


def check_png(path: str) -> None:
    """Refuse a name that would promise another kind of picture. Raises UsageError."""
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"--png is {path}; expected a name that ends in .png")
    check_folder(path)


def check_out(path: str, *, has_weights: bool) -> None:
    """Refuse a name that cannot hold the result. Raises UsageError."""
    suffix = Path(path).suffix
    if suffix not in {".npy", ".npz"}:
        raise UsageError(f"--out is {path}; expected a name that ends in .npy or .npz")
    if has_weights and suffix == ".npy":
        raise UsageError(f"--out is {path}, which holds one array; use .npz to save weights too")
    check_folder(path)


def check_folder(path: str) -> None:
    """Refuse a path in a folder that does not exist. Raises UsageError."""
    if not (folder := Path(path).parent).is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {folder}")


def save(path: str, result: AttentionResult) -> None:
    """Write what there is of `output`, `attn_weights` and `top_keys`."""
    named = {
        "output": result.output,
        "attn_weights": result.attn_weights,
        "top_keys": result.top_keys,
    }
    arrays: dict[str, Any] = {name: array for name, array in named.items() if array is not None}
    if Path(path).suffix == ".npy":
        np.save(path, arrays["output"])
    else:
        np.savez(path, **arrays)


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(f"cannot read {path}: {error.strerror or error}")


def _damaged(path: str) -> UsageError:
    # NumPy's own words advise to unpickle the file, which runs whatever code is in it.
    return UsageError(f"{path} is no .npy or .npz file of plain arrays, or damaged")


def _check_shapes(path: str, given: AttendInput) -> None:
    """Check what the labels need; the client checks the rest."""
    if given.query.ndim not in (3, 4):
        raise UsageError(
            f"{path}: expected query of shape (batch_size, seq_len, width), or (seq_len, width) "
            "for one sequence, or (batch_size, num_heads, seq_len, head_dim) for a model without "
            f"input projections; it has shape {given.query.shape}"
        )
    one, each = given.query.shape[-2:-1], (given.query.shape[0], given.query.shape[-2])
    if given.tokens is not None and given.tokens.shape not in (one, each):
        raise UsageError(
            f"{path}: tokens has shape {given.tokens.shape}; expected (q_seq_len,) = {one} or "
            f"(batch_size, q_seq_len) = {each}"
        )
