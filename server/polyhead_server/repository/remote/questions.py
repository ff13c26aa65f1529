"""Questions to a store: each is answered within a limited time, or fails without saying secrets."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Questions", "StoreError", "redacted"]

_T = TypeVar("_T")
_MAX_ERROR_CHARS = 400
_MAX_UNANSWERED = 4
_USER, _QUERY = re.compile(r"//[^\s/'\"]*@"), re.compile(r"\?[^\s'\"]+")


class StoreError(Exception):
    """A request to a store failed. The message is for the operator; it has no credentials."""


def redacted(text: str) -> str:
    """Return a text whose URLs have no user, password or query, which may be secret."""
    return _QUERY.sub("?***", _USER.sub("//***@", text))


class Questions:
    """Asks in threads, because some libraries wait for a store without a limit."""

    def __init__(self, answer_s: float) -> None:
        self._answer_s = answer_s
        self._unanswered: set[threading.Thread] = set()

    def ask(self, question: Callable[[], _T]) -> _T:
        """Return the result of a question. Raises ImportError, and StoreError for other errors.

        Its cause is left out, because libraries write URLs with credentials into their errors.
        """
        self._unanswered = {thread for thread in self._unanswered if thread.is_alive()}
        if len(self._unanswered) >= _MAX_UNANSWERED:
            raise StoreError(f"it has not answered {_MAX_UNANSWERED} questions, so none is asked")
        answers: list[_T | Exception] = []

        def answer() -> None:
            try:
                answers.append(question())
            except Exception as error:  # noqa: BLE001 - each library has errors of its own
                answers.append(error)

        thread = threading.Thread(target=answer, name="polyhead-store", daemon=True)
        thread.start()
        thread.join(self._answer_s)
        if not answers:
            self._unanswered.add(thread)
            raise StoreError(f"it has not answered within {self._answer_s:g} s")
        if isinstance(answers[0], ImportError):
            raise answers[0]
        if isinstance(answers[0], Exception):
            raise StoreError(_shown(answers[0])) from None
        return answers[0]


def _shown(error: Exception) -> str:
    text = redacted(f"{type(error).__name__}: {error}")
    return text if len(text) <= _MAX_ERROR_CHARS else text[:_MAX_ERROR_CHARS] + "…"
