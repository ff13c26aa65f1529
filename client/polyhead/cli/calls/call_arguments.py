"""The flags that `polyhead attend` and `polyhead forward` share, and the end of their reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead.cli.shared_arguments import add_server_arguments, parse_indices

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "REQUEST_FLAGS",
    "add_call_arguments",
    "add_selection_arguments",
    "format_summary",
]

DTYPES = ("float32", "float16", "bfloat16", "float64")
REQUEST_FLAGS = {
    "model": "--model",
    "model_version": "--model-version",
    "request_id": "--request-id",
}
"""The flags of add_call_arguments by the fields of a request that they set, for error messages."""
_TIMEOUT_S = 60


def add_call_arguments(parser: ArgumentParser, *, default_dtype: str) -> None:
    """Add the flags for a call's model, server, dtype and id.

    ``default_dtype``: describes the dtype of results without --output-dtype.
    """
    parser.add_argument("--model", metavar="NAME", required=True, help="which model to run")
    parser.add_argument(
        "--model-version",
        metavar="N",
        type=int,
        help="which version of the model (default: the newest)",
    )
    add_server_arguments(parser, timeout_s=_TIMEOUT_S)
    parser.add_argument(
        "--output-dtype", choices=DTYPES, help=f"dtype of the result (default: {default_dtype})"
    )
    parser.add_argument(
        "--request-id", metavar="TEXT", help="identifies the request in the server's log"
    )


def add_selection_arguments(group: _ArgumentGroup, *, top_k_default: str = "") -> None:
    """Add the flags that select attention weights, except --queries.

    ``top_k_default``: ends the help of --top-k.
    """
    group.add_argument("--heads", metavar="0,2", type=parse_indices, help="only these heads")
    group.add_argument(
        "--top-k",
        metavar="K",
        type=int,
        help=f"only the K keys with the largest weights in each row{top_k_default}",
    )
    group.add_argument(
        "--average-heads", action="store_true", help="the mean over the heads instead of each head"
    )
    group.add_argument(
        "--stage",
        choices=("weights", "scores", "masked"),
        default="weights",
        help="after softmax; scores before masks and biases; or scores after them (%(default)s)",
    )


def format_summary(
    arrays: Mapping[str, NDArray[Any]],
    lines: Sequence[tuple[str, str]],
    arguments: Namespace,
    *,
    min_width: int = 0,
) -> str:
    """Format a report in two columns: a line for each array, the lines, and the saved files."""
    rows = [(name, f"{array.dtype} {array.shape}") for name, array in arrays.items()]
    rows += lines
    rows += [("saved", path) for path in (arguments.out, arguments.png) if path]
    width = max(min_width, *(len(name) + 2 for name, _ in rows))
    return "".join(f"{name:<{width}}{text}\n" for name, text in rows)
