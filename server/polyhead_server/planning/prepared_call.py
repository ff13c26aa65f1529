"""Prepared calls: the model and the checked plan that all requests of one template share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from polyhead_server.engine.runs.attention_run import AttentionRun
from polyhead_server.engine.runs.cancellable import is_out_of_memory
from polyhead_server.errors import InvalidRequestError
from polyhead_server.planning.bound_call import BoundCall
from polyhead_server.planning.plan import plan_call
from polyhead_server.planning.selections import check_gives_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from polyhead_server.call import Arrays, AttentionCall, AttentionInputs, AttentionOutputs
    from polyhead_server.codec.request import SingleRequest
    from polyhead_server.engine.model import Model, RunOptions
    from polyhead_server.engine.onnx_model import OnnxModel
    from polyhead_server.planning.plan import CallPlan
    from polyhead_server.settings import ServerSettings

__all__ = ["PreparedAttention", "PreparedCall", "PreparedGraph", "prepare_attention"]

_LOG = logging.getLogger("polyhead.onnx")


@dataclass(slots=True, eq=False)
class PreparedAttention:
    """A call of an attention block, prepared. Requests differ in their arrays and ids only."""

    model: Model
    plan: CallPlan
    batch_key: Hashable | None
    """Calls with equal keys can run together, as one batch; None means that each call runs
    alone."""
    can_be_bound: bool = False
    was_called: bool = False
    bound: BoundCall | None = None
    """Runs small calls on arrays that stay in place. It is made for the second call."""

    @property
    def call(self) -> AttentionCall:
        """The call, which all requests of the template share."""
        return self.plan.call

    @property
    def batch_size(self) -> int:
        """Number of sequences of one call."""
        return self.plan.call.batch_size

    @property
    def num_tokens(self) -> int:
        """Queries or keys of all sequences of one call, the larger number."""
        return self.plan.num_tokens

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens in a batch of several calls."""
        return self.model.batching.max_tokens

    @property
    def runs_inline(self) -> bool:
        """Whether a run takes less time than handing it to a worker thread."""
        return self.plan.cost.runs_inline

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one call."""
        return self.plan.cost.multiply_adds

    def is_short(self, num_calls: int) -> bool:
        """Whether a run of ``num_calls`` calls is short; see Job."""
        return num_calls * self.multiply_adds <= self.model.batching.max_short_multiply_adds

    @property
    def calls_per_run(self) -> int:
        """Number of calls that may share a run."""
        return max(1, self.max_batch_tokens // self.num_tokens)

    def run_options(self, num_calls: int) -> RunOptions:
        """Make the options of a run of ``num_calls`` calls. They can cancel the run."""
        return self.model.run_options(num_calls * self.plan.cost.peak_bytes)

    @property
    def response_bytes(self) -> int:
        """Size of the tensors of one call's response."""
        return self.plan.size.nbytes

    @property
    def bound_bytes(self) -> int:
        """Estimate of the memory of the bound arrays and their response."""
        return 2 * self.plan.cost.moved_bytes + self.plan.size.nbytes if self.can_be_bound else 0

    def run_bound(self, request: SingleRequest) -> bytes | None:
        """Run a small call inline, and return its response; None if it must run as a job."""
        if not self.can_be_bound or request.request_id:
            return None
        if self.bound is None:
            if not self.was_called:
                self.was_called = True
                return None
            try:
                self.bound = BoundCall(self.model, self.plan, request)
            except Exception:  # noqa: BLE001 - the job fails again, and reports the error
                self.can_be_bound = False
                return None
        return self.bound.run(request)

    def bind(
        self, arrays: Arrays, batch_size: int
    ) -> Callable[[RunOptions | None], AttentionOutputs]:
        """Check the values of arrays, and return a function that runs the block on them.

        ``arrays``: the arrays of one call, or of several along the first axis. ``batch_size``: the
        length of this axis in each run. Raises InvalidRequestError.
        """
        plan, plain_run = self.plan, self.plan.plain_run
        if plain_run is not None and batch_size <= plain_run.max_sequences:
            return partial(plain_run, self.model, plan.embeddings(arrays), batch_size)
        return partial(self._run, plan.inputs(arrays))

    def split(self, outputs: AttentionOutputs, sizes: Sequence[int]) -> list[AttentionOutputs]:
        """Split outputs along the batch axis."""
        return [outputs.part(first, end) for first, end in _bounds(sizes)]

    def _run(self, inputs: AttentionInputs, options: RunOptions | None) -> AttentionOutputs:
        return AttentionRun.on(self.model, inputs, options).everything()


@dataclass(frozen=True, slots=True, eq=False)
class PreparedGraph:
    """A call of a graph that polyhead did not export, prepared."""

    model: OnnxModel
    batch_key: Hashable | None
    output_names: tuple[str, ...]
    batch_size: int
    """Length of the batch axis of one call; 1 for models without one."""
    runs_inline = False  # the duration of a run is unknown
    response_bytes = 0  # unknown, too
    calls_per_run = 1  # such calls are never grouped

    def is_short(self, num_calls: int) -> bool:  # noqa: ARG002 - the duration is unknown
        """Whether a run is short; see Job."""
        return False

    @property
    def num_tokens(self) -> int:
        """Length of the batch axis, which is the unit of max_batch_tokens for such models."""
        return self.batch_size

    @property
    def max_batch_tokens(self) -> int:
        """Longest batch axis that the model takes."""
        return self.model.max_batch_size

    def run_options(self, num_calls: int) -> RunOptions:  # noqa: ARG002 - memory is not known
        """Make the options of a run."""
        return self.model.run_options()

    def bind(
        self,
        arrays: Arrays,
        batch_size: int,  # noqa: ARG002 - the graph is run once
    ) -> Callable[[RunOptions | None], list[NDArray[Any]]]:
        """Return a function that runs the graph on arrays."""
        return partial(self._run, arrays)

    def split(self, outputs: list[NDArray[Any]], sizes: Sequence[int]) -> list[list[NDArray[Any]]]:
        """Split outputs along the batch axis. Raises ValueError if one has no such axis."""
        if any(output.shape[:1] != (sum(sizes),) for output in outputs):
            raise ValueError("an output has no batch axis")
        return [[output[first:end] for output in outputs] for first, end in _bounds(sizes)]

    def _run(self, arrays: Arrays, options: RunOptions | None) -> list[NDArray[Any]]:
        model = self.model
        try:
            return model.run(self.output_names, arrays, options)
        except Exception as error:
            is_cancelled = options is not None and options.terminate
            if is_cancelled or is_out_of_memory(error):
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


PreparedCall: TypeAlias = PreparedAttention | PreparedGraph


def prepare_attention(
    call: AttentionCall, model: Model, settings: ServerSettings
) -> PreparedAttention:
    """Plan the calls of a template.

    Raises InvalidRequestError, LimitExceededError and ModelUnavailableError.
    """
    if call.vectors is not None:
        check_gives_vectors(model, call.vectors)
    plan = plan_call(call, model.config, settings)
    batch_key: Hashable | None = None
    if plan.batch_key is not None and plan.num_tokens <= model.batching.solo_above_tokens:
        batch_key = model, plan.batch_key
    return PreparedAttention(model, plan, batch_key, BoundCall.can_run(model, plan))


def _bounds(sizes: Sequence[int]) -> pairwise[tuple[int, int]]:
    """Return start and end of parts of these sizes."""
    return pairwise(accumulate(sizes, initial=0))
