"""Writes answers into a page that works without a server. page/offline/answers.js reads them.

Each answer is a record: the length of a JSON header (uint32, little-endian), the header with the
question and the size of the answer, and the answer's frames. Gzip and base64 pack the records.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MARK", "About", "Answer", "with_answers"]

MARK = "<!-- answers -->"
"""The place for the answers in the page."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its question."""

    name: str
    """The endpoint's name."""
    body: dict[str, Any] | None
    """The request's JSON object; None if the endpoint takes none."""
    frames: bytes
    """The frames of the response (web/frames.py)."""


@dataclass(frozen=True, slots=True)
class About:
    """The description of a file, which the page reads."""

    hash: str
    """The state that the page shows first, in the form of the page's address."""
    made: str
    """A sentence on the time and the source of the file."""
    missing: str
    """A sentence on what the file does not contain."""
    texts: list[str]
    """The texts in the file."""
    endpoints: list[str]
    """Names of the endpoints that it answers, besides maps and heads."""
    attentions: list[str]
    """The attentions in the file: "encoder" (in any model without a decoder too), "decoder",
    "cross"."""


def with_answers(shell: str, about: About, answers: Iterable[Answer]) -> str:
    """Return the page with a description and answers."""
    packed = base64.b64encode(gzip.compress(b"".join(map(_record, answers)), mtime=0)).decode()
    content = json.dumps(asdict(about)).replace(
        "<", "\\u003c"
    )  # so that no text can end the element
    return shell.replace(
        MARK,
        f'<script type="application/json" id="about">{content}</script>'
        f'<script type="text/plain" id="answers">{packed}</script>',
        1,
    )


def _record(answer: Answer) -> bytes:
    header = {"name": answer.name, "body": answer.body, "size": len(answer.frames)}
    text = json.dumps(header).encode()
    return b"".join((len(text).to_bytes(4, "little"), text, answer.frames))
