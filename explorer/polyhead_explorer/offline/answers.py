"""The answers in a page that works without a server, as page/offline/answers.js reads them.

They are records: the length of a JSON header (uint32, little-endian), the header with what was
asked and the size of the answer, and the answer's frames. Records are packed by gzip and base64.
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
"""Where a page's answers belong."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and what was asked."""

    name: str
    """Of the endpoint."""
    body: dict[str, Any] | None
    """None: the endpoint takes nothing."""
    frames: bytes
    """As web/frames.py writes them."""


@dataclass(frozen=True, slots=True)
class About:
    """What a file says about itself."""

    hash: str
    """The state that it begins with, as the page's address has it."""
    made: str
    """When and of what it was made."""
    missing: str
    """What is not in it."""
    texts: list[str]
    """The texts that it holds."""
    endpoints: list[str]
    """Names of what it answers besides maps and heads."""
    attentions: list[str]
    """Whose attention it holds: "encoder", which any model's own is, "decoder", "cross"."""


def with_answers(shell: str, about: About, answers: Iterable[Answer]) -> str:
    """Put answers into the page."""
    packed = base64.b64encode(gzip.compress(b"".join(map(_record, answers)), mtime=0)).decode()
    content = json.dumps(asdict(about)).replace("<", "\\u003c")  # it cannot end its element
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
