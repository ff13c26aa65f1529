"""A request's run on its model, which another thread can cancel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from polyhead_server.request_runs import RequestRuns

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead_server.call import AttentionInputs, AttentionOutputs
    from polyhead_server.engine import Model, RunOptions

__all__ = ["PlainRun", "RowsRun", "Run", "RunCancelledError"]

_GIVE_BACK_ABOVE_BYTES = 64 << 20
"""Runs that take more than this give it back when they end. Giving it back costs page faults, which
smaller runs would notice: a tenth of the time of one row of 4096 keys."""


class RunCancelledError(Exception):
    """A run that was cancelled before it ended."""


class _CancellableRun:
    """One or several runs of a model's graph, which another thread can cancel."""

    def __init__(self, model: Model, peak_bytes: int) -> None:
        """``peak_bytes``: the memory that it will take, as far as that is foreseen."""
        self._options = model.run_options(gives_memory_back=peak_bytes > _GIVE_BACK_ABOVE_BYTES)

    def cancel(self) -> None:
        """End the run at the next node of its graph."""
        self._options.terminate = True

    def _unless_cancelled(self, compute: Callable[[], AttentionOutputs]) -> AttentionOutputs:
        try:
            return compute()
        except Exception as error:
            if self._options.terminate:
                raise RunCancelledError from error
            raise


class PlainRun(_CancellableRun):
    """Requests that are plain runs of the graph."""

    def __init__(
        self,
        model: Model,
        compute: Callable[[RunOptions], AttentionOutputs],
        peak_bytes: int = 0,
    ) -> None:
        """``compute``: runs the graph, with options by which it can be ended."""
        super().__init__(model, peak_bytes)
        self._compute = partial(compute, self._options)

    def __call__(self) -> AttentionOutputs:
        """Run to the end. Raises as a Run does."""
        return self._unless_cancelled(self._compute)


class Run(_CancellableRun):
    """One request's runs, or those of several of one kind."""

    def __init__(self, model: Model, inputs: AttentionInputs, peak_bytes: int = 0) -> None:
        super().__init__(model, peak_bytes)
        # not bound to self: a cycle would keep the arrays until Python's collector finds it
        run_graph = partial(model.run_graph, options=self._options)
        self._runs = RequestRuns(inputs, model.config, run_graph, model.max_scores_bytes)

    def __call__(self) -> AttentionOutputs:
        """Run to the end.

        Raises RunCancelledError if cancelled, and whatever else it fails with.
        """
        return self._unless_cancelled(self._runs.everything)


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
        block = self._unless_cancelled(partial(self._runs.block, rows))
        self._first_row += len(rows)
        return first_row, block
