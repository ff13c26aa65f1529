"""Reads the texts of `polyhead forward`, and writes its result files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.cli.command import UsageError
from polyhead.cli.output_paths import check_file, write_npz, writing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead.types import ForwardResult, LayerKey

__all__ = ["arrays_of", "check_out", "read_texts", "save"]


def read_texts(texts: Sequence[str], file: str | None) -> list[str]:
    """Return the texts of arguments, of a file, or of standard input. Raises UsageError."""
    if texts and file:
        raise UsageError("texts are given as arguments and with --file: expected one of them")
    if texts:
        return list(texts)
    source = file or "standard input"
    try:
        content = Path(file).read_bytes() if file else sys.stdin.buffer.read()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not text in UTF-8: {error}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{source} has no text: expected one text a line")
    return lines


def check_out(path: str) -> None:
    """Raise UsageError for a path that cannot hold the result."""
    if Path(path).suffix != ".npz":
        raise UsageError(f"--out is {path}; expected a name that ends in .npz")
    check_file(path)


def save(path: str, result: ForwardResult) -> None:
    """Write the arrays of a result. Raises UsageError if the file cannot be written."""
    arrays: dict[str, Any] = arrays_of(result)
    arrays["lengths"] = result.lengths
    if result.token_ids is not None:
        arrays["token_ids"] = result.token_ids
    if result.token_type_ids is not None and result.token_type_ids.any():
        arrays["token_type_ids"] = result.token_type_ids
    if result.tokens:
        seq_len = max(map(len, result.tokens))
        padded = [tokens + [""] * (seq_len - len(tokens)) for tokens in result.tokens]
        arrays["tokens"] = np.array(padded)
    with writing(path):
        write_npz(path, arrays)


def arrays_of(result: ForwardResult) -> dict[str, NDArray[Any]]:
    """Return the arrays of a result by name, such as ``attn_weights.3``."""
    arrays_by_name: dict[str, NDArray[Any]] = {}
    if result.output is not None:
        arrays_by_name["output"] = result.output
    for name in ("hidden_states", "attn_weights", "top_keys", "queries"):
        arrays = getattr(result, name)
        arrays_by_name |= {f"{name}.{_text_of(layer)}": array for layer, array in arrays.items()}
    for layer, vectors in result.head_vectors.items():
        kinds = vectors.arrays().items()
        arrays_by_name |= {f"head_vectors.{kind}.{_text_of(layer)}": array for kind, array in kinds}
    return arrays_by_name


def _text_of(layer: LayerKey) -> str:
    return f"{layer[0]}.{layer[1]}" if isinstance(layer, tuple) else str(layer)
