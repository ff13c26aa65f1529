"""Return a request's outcome to its caller without a reference cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyhead._stream.messages import Outcome
    from polyhead.results import AttentionResult


def take_result(outcomes: list[Outcome]) -> AttentionResult:
    """Pop the only outcome of a list; return it if it is a result, raise it if it is an error.

    A frame that raises an error must not refer to it by a local variable, because the error's
    traceback refers to the frame. This cycle would keep arrays in memory until the garbage
    collector runs.
    """
    outcome = outcomes.pop()
    try:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
    finally:
        del outcome
