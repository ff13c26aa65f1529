"""Runs of a model's graph that another thread can cancel."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from polyhead_server.engine.runs.attention_run import AttentionRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead_server.call import AttentionInputs, AttentionOutputs
    from polyhead_server.engine.model import Model, RunOptions

__all__ = ["CancellableRun", "RowBlockRun", "RunCancelledError", "is_out_of_memory"]

_OUT_OF_MEMORY = re.compile("bad_alloc|failed to allocate memory", re.IGNORECASE)
"""Matches ONNX Runtime's error messages about lack of memory."""

_T = TypeVar("_T")


class RunCancelledError(Exception):
    """A run was cancelled before it ended."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or ONNX Runtime reports lack of memory."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


class CancellableRun:
    """One or several runs of a graph that another thread can cancel.

    Each run must get ``options``, because cancelling sets their flag, which ONNX Runtime checks
    before each node of the graph.
    """

    def __init__(self, options: RunOptions) -> None:
        self.options = options

    def cancel(self) -> None:
        """End the run at the next node of its graph."""
        self.options.terminate = True

    def __call__(self, compute: Callable[[], _T]) -> _T:
        """Call ``compute``. Raises RunCancelledError if cancelled, or the error of ``compute``."""
        try:
            return compute()
        except Exception as error:
            if self.options.terminate:
                raise RunCancelledError from error
            raise


class RowBlockRun(CancellableRun):
    """The run of one request in blocks of query rows. Each block is computed on demand."""

    def __init__(
        self, model: Model, inputs: AttentionInputs, rows_per_block: int, peak_bytes: int = 0
    ) -> None:
        """``peak_bytes``: estimate of a run's memory."""
        super().__init__(model.run_options(peak_bytes))
        self._runs = AttentionRun.on(model, inputs, self.options)
        self._rows = self._runs.selected_rows
        self._rows_per_block = rows_per_block
        self._first_row = 0

    @property
    def has_more(self) -> bool:
        """Whether there is another block."""
        return self._first_row < len(self._rows)

    def next_block(self) -> tuple[int, AttentionOutputs]:
        """Compute the next block: the index of its first row, and its outputs.

        Must not be called from two threads at once. Raises RunCancelledError if cancelled.
        """
        first_row = self._first_row
        rows = self._rows[first_row : first_row + self._rows_per_block]
        block = self(partial(self._runs.block, rows))
        self._first_row += len(rows)
        return first_row, block
