"""A request's run on its model, which another thread can cancel."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from polyhead_server.request_runs import RequestRuns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead_server.call import AttentionInputs, AttentionOutputs
    from polyhead_server.engine import Model

__all__ = ["RowsRun", "Run", "RunCancelledError"]

_GIVE_BACK_ABOVE_BYTES = 64 << 20
"""Runs that take more than this give it back when they end. Giving it back costs page faults, which
smaller runs would notice: a tenth of the time of one row of 4096 keys."""


class RunCancelledError(Exception):
    """A run that was cancelled before it ended."""


class Run:
    """One request's runs of its model's graph, which another thread can cancel."""

    def __init__(self, model: Model, inputs: AttentionInputs, peak_bytes: int = 0) -> None:
        """``peak_bytes``: the memory that it will take, as far as that is foreseen."""
        self._options = model.run_options(gives_memory_back=peak_bytes > _GIVE_BACK_ABOVE_BYTES)
        # not bound to self: a cycle would keep the arrays until Python's collector finds it
        run_graph = partial(model.run_graph, options=self._options)
        self._runs = RequestRuns(inputs, model.config, run_graph, model.max_scores_bytes)

    def cancel(self) -> None:
        """End the run at the next node of its graph."""
        self._options.terminate = True

    def __call__(self) -> AttentionOutputs:
        """Run to the end.

        Raises RunCancelledError if cancelled, and whatever else it fails with.
        """
        with self._noting_cancellation():
            return self._runs.everything()

    @contextmanager
    def _noting_cancellation(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._options.terminate:
                raise RunCancelledError from error
            raise


class RowsRun(Run):
    """One request's runs in blocks of query rows; each block is computed when it is asked for."""

    def __init__(
        self, model: Model, inputs: AttentionInputs, rows_per_block: int, peak_bytes: int = 0
    ) -> None:
        super().__init__(model, inputs, peak_bytes)
        self._rows = self._runs.selected_rows
        self._rows_per_block = rows_per_block
        self._first_row = 0

    @property
    def has_more(self) -> bool:
        """Whether there is another block."""
        return self._first_row < len(self._rows)

    def next_block(self) -> tuple[int, AttentionOutputs]:
        """Compute the next block: the place of its first row, and its rows.

        Not to be called from two threads at once. Raises as a Run does.
        """
        first_row = self._first_row
        rows = self._rows[first_row : first_row + self._rows_per_block]
        with self._noting_cancellation():
            block = self._runs.block(rows)
        self._first_row += len(rows)
        return first_row, block
