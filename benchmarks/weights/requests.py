"""What a server is asked for: all attention weights of a sequence, and less of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from polyhead import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead import Client
    from polyhead.types import AttentionResult, AttentionRows

__all__ = ["ALL", "IN_BLOCKS", "MODEL", "ONE_ROW", "QUESTIONS", "Question"]

MODEL = "bench"
TIMEOUT_S = 600.0
ALL, IN_BLOCKS, ONE_ROW = "all weights", "all weights, in blocks", "top 10 of one row"


@dataclass(frozen=True)
class Question:
    """One way to ask."""

    need_weights: Literal[True] | Weights
    need_output: bool = False
    is_in_blocks: bool = False
    """Whether `attend_rows` is asked, and not `attend`."""

    def ask(self, client: Client, query: NDArray[Any]) -> int:
        """Ask, let go of the answer, and tell how many bytes its arrays had."""
        wanted: dict[str, Any] = {
            "model": MODEL,
            "need_weights": self.need_weights,
            "need_output": self.need_output,
            "timeout": TIMEOUT_S,
        }
        if not self.is_in_blocks:
            return _size(client.attend(query, **wanted))
        with client.attend_rows(query, **wanted) as blocks:
            return sum(_size(rows) for rows in blocks)


def _size(answer: AttentionResult | AttentionRows) -> int:
    arrays = (answer.output, answer.attn_weights, answer.top_keys)
    return sum(array.nbytes for array in arrays if array is not None)


QUESTIONS = {
    ALL: Question(need_weights=True),
    IN_BLOCKS: Question(need_weights=True, is_in_blocks=True),
    "one head": Question(Weights(heads=0)),
    "mean over the heads": Question(Weights(average_heads=True)),
    "top 10 of every row": Question(Weights(top_k=10)),
    ONE_ROW: Question(Weights(queries=0, top_k=10)),
    "top 10 of one row, and the output": Question(Weights(queries=0, top_k=10), need_output=True),
}
