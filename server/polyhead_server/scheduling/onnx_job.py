"""What the scheduler places of graphs that polyhead did not export."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from polyhead_server.engine.cancellable import CancellableRun, RunCancelledError
from polyhead_server.engine.statistics import RequestTiming, RunTimestamps
from polyhead_server.errors import InvalidRequestError, LimitExceededError
from polyhead_server.scheduling.job import Batch, Job, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from polyhead_server.deadline import Deadline
    from polyhead_server.engine.onnx_model import OnnxModel
    from polyhead_server.scheduling.job import RunnableBatch

__all__ = ["OnnxJob", "OnnxRequest"]

_LOG = logging.getLogger("polyhead.onnx")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class OnnxRequest(Protocol[_T_co]):
    """A request as the edge of the server holds it: in bytes."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Read its inputs. Raises InvalidRequestError."""

    def respond(self, outputs: Sequence[NDArray[Any]]) -> _T_co:
        """Write what it is answered with: the outputs that it asked for, in their order."""


class OnnxJob(Job[_T]):
    """One request's run of a graph. How long that takes is not known, so none is tiny."""

    def __init__(
        self,
        model: OnnxModel,
        request: OnnxRequest[_T],
        deadline: Deadline,
        *,
        outputs: tuple[str, ...],
        batch_size: int,
        batch_key: Hashable | None,
        max_response_bytes: int,
    ) -> None:
        """``batch_key``: None for a request that shares its run with no other."""
        super().__init__(deadline, runs_inline=False)
        self.model = model
        self.outputs = outputs
        self.batch_key = batch_key
        self.batch_size = batch_size
        self.request = request
        self.max_response_bytes = max_response_bytes

    @property
    def num_tokens(self) -> int:
        """Its entries along the batch axis: what a batch of such models is bounded by."""
        return self.batch_size

    @property
    def max_batch_tokens(self) -> int:
        """Most of these in a run that it shares."""
        return self.model.max_batch_size

    def make_batch(self, others: Sequence[Job[_T]]) -> RunnableBatch[_T]:
        """Make a batch."""
        return _OnnxBatch([self, *others])

    def note_failure(self) -> None:
        """Add that it failed to the model's statistics."""
        self.model.statistics.add_failure(time.monotonic() - self.arrived)


class _OnnxBatch(Batch[_T]):
    """Requests of one batch key, run as one batch along the first axis."""

    _jobs: list[OnnxJob[_T]]

    def _together(self, jobs: Sequence[OnnxJob[_T]], started: float) -> list[_T | Exception]:
        model, names = jobs[0].model, jobs[0].outputs
        given = [job.request.arrays() for job in jobs]
        feeds = given[0]
        if len(jobs) > 1:
            feeds = {name: np.concatenate([own[name] for own in given]) for name in feeds}
        run = CancellableRun(model.run_options())
        self._begin(run)
        begun = time.monotonic()
        outputs = _outputs(run, model, names, feeds)
        ended = time.monotonic()
        replies: list[_T | Exception] = []
        batch_size = sum(job.batch_size for job in jobs)
        if len(jobs) > 1 and any(output.shape[:1] != (batch_size,) for output in outputs):
            raise _NoBatchAxisError
        first = 0
        for job in jobs:
            end = first + job.batch_size
            own = outputs if len(jobs) == 1 else [output[first:end] for output in outputs]
            _check_size(own, job.max_response_bytes)
            replies.append(job.request.respond(own))
            first = end
        times = RunTimestamps(started, begun, ended, time.monotonic())
        answered = [RequestTiming(job.batch_size, started - job.arrived) for job in jobs]
        model.statistics.add(batch_size, times, answered)
        return replies


class _NoBatchAxisError(Exception):
    """An output whose first axis is not the batch's after all: each is then run by itself."""


def _outputs(
    run: CancellableRun, model: OnnxModel, names: Sequence[str], feeds: dict[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Run the graph. Raises InvalidRequestError if it fails on these inputs."""
    try:
        return run(partial(model.run, names, feeds, run.options))
    except RunCancelledError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _LOG.warning(
            "graph failed: %s", error, extra={"model": model.name, "version": model.version}
        )
        raise InvalidRequestError(
            "inputs",
            "the model's graph failed on them: check that their shapes and values fit each "
            "other and the model; the server's log says where",
            "GRAPH_FAILED",
        ) from error


def _check_size(outputs: Sequence[NDArray[Any]], limit: int) -> None:
    size = sum(output.nbytes for output in outputs)
    if size > limit:
        raise LimitExceededError(
            "max_response_bytes",
            f"the outputs are {size} bytes, over this server's {limit}; ask for fewer outputs or "
            "send less, or raise its --max-response-bytes",
            "RESPONSE_TOO_LARGE",
            expected=limit,
            got=size,
        )
