"""How a request's outcome reaches its caller without a reference cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyhead._stream.messages import Outcome
    from polyhead.results import AttentionResult


def take_result(outcomes: list[Outcome]) -> AttentionResult:
    """Pop the only outcome of a list; return it if it is a result, raise it if it is an error.

    A frame that raises an error must not keep it in a local variable: the error's traceback refers
    to the frame, and this cycle would keep its arrays until Python's collector runs.
    """
    outcome = outcomes.pop()
    try:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
    finally:
        del outcome
