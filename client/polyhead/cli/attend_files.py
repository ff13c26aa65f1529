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

__all__ = ["AttendInput", "check_folder", "check_out", "read_input", "save"]

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
    """(batch_size, q_seq_len, embed_dim)."""
    key: NDArray[Any] | None = None
    value: NDArray[Any] | None = None
    attn_mask: NDArray[Any] | None = None
    kv_lengths: NDArray[Any] | None = None
    tokens: NDArray[Any] | None = None
    """(q_seq_len,) or (batch_size, q_seq_len): the words, if the file names them."""

    def labels(self, words: str | None, sequence: int) -> tuple[list[str], list[str]]:
        """Words for the rows and the columns of one sequence's heat maps; positions if unknown.

        ``words``: the query's, separated by spaces; None: those of the file. Raises UsageError if
        their number is wrong, or if there is no such sequence.
        """
        batch_size, q_seq_len, _ = self.query.shape
        if not 0 <= sequence < batch_size:
            raise UsageError(
                f"--sequence is {sequence}; the batch has {batch_size}, counted from 0"
            )
        tokens = self._tokens_of(sequence) if words is None else words.split()
        if tokens is None:
            tokens = [str(position) for position in range(q_seq_len)]
        if len(tokens) != q_seq_len:
            raise UsageError(f"expected {q_seq_len} tokens, as long as query; got {len(tokens)}")
        if self.key is None:
            return tokens, tokens
        return tokens, [str(position) for position in range(self.key.shape[1])]

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
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        # NumPy's own words advise to unpickle the file, which runs whatever code is in it.
        raise UsageError(f"{path} is no .npy or .npz file of plain arrays, or damaged") from error
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
    """Write `output`, and `attn_weights` if there are any."""
    if Path(path).suffix == ".npy":
        np.save(path, result.output)
    elif result.attn_weights is None:
        np.savez(path, output=result.output)
    else:
        np.savez(path, output=result.output, attn_weights=result.attn_weights)


def _check_shapes(path: str, given: AttendInput) -> None:
    """Check what the labels need; the client checks the rest."""
    if given.query.ndim != 3 or (given.key is not None and given.key.ndim != 3):
        raise UsageError(
            f"{path}: expected query and key of shape (batch_size, seq_len, width), or (seq_len, "
            f"width) for one sequence; query has shape {given.query.shape}"
        )
    if given.tokens is not None and given.tokens.shape not in {
        given.query.shape[1:2],
        given.query.shape[:2],
    }:
        raise UsageError(
            f"{path}: tokens has shape {given.tokens.shape}; expected (q_seq_len,) = "
            f"{given.query.shape[1:2]} or (batch_size, q_seq_len) = {given.query.shape[:2]}"
        )
