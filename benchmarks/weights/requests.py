"""The requests: all attention weights of a sequence, and parts of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from polyhead import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead import Client
    from polyhead.types import AttentionResult, AttentionRows

__all__ = ["ALL", "IN_BLOCKS", "MODEL", "ONE_ROW", "REQUESTS", "WeightsRequest"]

MODEL = "bench"
TIMEOUT_S = 600.0
ALL, IN_BLOCKS, ONE_ROW = "all weights", "all weights, in blocks", "top 10 of one row"


@dataclass(frozen=True)
class WeightsRequest:
    """A request for attention weights."""

    need_weights: Literal[True] | Weights
    need_output: bool = False
    is_in_blocks: bool = False
    """Whether it is a call of `attend_rows`, and not of `attend`."""

    def send(self, client: Client, query: NDArray[Any]) -> int:
        """Send the request. Returns the number of bytes of the result's arrays."""
        arguments: dict[str, Any] = {
            "model": MODEL,
            "need_weights": self.need_weights,
            "need_output": self.need_output,
            "timeout": TIMEOUT_S,
        }
        if not self.is_in_blocks:
            return _size(client.attend(query, **arguments))
        with client.attend_rows(query, **arguments) as blocks:
            return sum(_size(rows) for rows in blocks)


def _size(result: AttentionResult | AttentionRows) -> int:
    arrays = (result.output, result.attn_weights, result.top_keys)
    return sum(array.nbytes for array in arrays if array is not None)


REQUESTS = {
    ALL: WeightsRequest(need_weights=True),
    IN_BLOCKS: WeightsRequest(need_weights=True, is_in_blocks=True),
    "one head": WeightsRequest(Weights(heads=0)),
    "mean over the heads": WeightsRequest(Weights(average_heads=True)),
    "top 10 of every row": WeightsRequest(Weights(top_k=10)),
    ONE_ROW: WeightsRequest(Weights(queries=0, top_k=10)),
    "top 10 of one row, and the output": WeightsRequest(Weights(queries=0, top_k=10), True),  # noqa: FBT003
}
