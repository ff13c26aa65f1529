"""How a request's outcome reaches its caller without a reference cycle.

An error's traceback refers to the frames that it passes, and so to their local variables. If one of
these is the error, a cycle keeps the frames' arrays in memory until Python's collector runs. Errors
that are to be raised are therefore passed in lists, from which they are popped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyhead._stream.messages import Outcome
    from polyhead.results import AttentionResult

__all__ = ["take_result"]


def take_result(outcomes: list[Outcome]) -> AttentionResult:
    """Pop the only outcome of a list; return it if it is a result, raise it if it is an error."""
    outcome = outcomes.pop()
    try:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
    finally:
        del outcome
