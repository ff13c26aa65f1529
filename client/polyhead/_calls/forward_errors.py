"""The server's errors name fields of a ForwardRequest; name forward's arguments instead."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from polyhead.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead._calls.forward_request import ExpectedForward

_ARGUMENTS = {
    "texts": "text",
    "text_pairs": "text_pair",
    "model_version": "version",
    "omit_output": "need_output",
    "hidden_states_wanted": "need_hidden_states",
}
"""Names of arguments by the names of fields, where the two differ."""
_WEIGHTS = re.compile(
    r"attn_weights\[([0-9]{1,9})\](?:\.selection|\.layer.*|(?=\.query_words))?(.*)"
)
_VECTORS = re.compile(r"head_vectors\[([0-9]{1,9})\](?:\.selection|\.layer.*)?(.*)")
_LAYER = re.compile(r"(hidden_states_wanted|first_layer).*")


@contextmanager
def errors_name_arguments(expected: ExpectedForward) -> Iterator[None]:
    """Name forward's arguments in the messages of the server's errors.

    The paths in an error's `fields` stay those of the contract.
    """
    try:
        yield
    except InvalidArgumentError as error:
        field, message = next(iter(error.fields), ""), str(error)
        if field and message.startswith(f"{field}: "):
            error.args = (_argument_of(field, expected) + message.removeprefix(field),)
        raise


def _argument_of(field: str, expected: ExpectedForward) -> str:
    """Return the argument that a field was written from, and the rest of the field's path."""
    if (match := _WEIGHTS.fullmatch(field)) and int(match[1]) < len(expected.weights):
        layer = expected.weights[int(match[1])].layer
        key = "" if layer is None else f"[{layer!r}]"
        return f"need_weights{key}{match[2].replace('query_words', 'queries')}"
    if (match := _VECTORS.fullmatch(field)) and int(match[1]) < len(expected.vectors):
        layer = expected.vectors[int(match[1])].layer
        return f"head_vectors{'' if layer is None else f'[{layer!r}]'}{match[2]}"
    field = _LAYER.sub(r"\1", field)  # layers are named by one value
    return re.sub(r"^\w+", lambda name: _ARGUMENTS.get(name[0], name[0]), field)
