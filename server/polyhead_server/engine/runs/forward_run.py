"""Runs a whole model layer by layer, as far as a request needs it.

Sequences of one length run together, without padding. So a sequence's result does not depend on the
others, and no padding is computed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionOutputs, LayerName, Stage
from polyhead_server.engine.device import on_host
from polyhead_server.engine.runs.layer_attention import LayerAttention
from polyhead_server.engine.runs.stack_plan import PlannedVectors, PlannedWeights, StackPlan
from polyhead_server.forward_call import ForwardOutputs, LayerWeights

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

    from polyhead_models.whole_config import Sublayer
    from polyhead_server.engine.model import RunOptions
    from polyhead_server.engine.whole_model import WholeModel

__all__ = ["ForwardRun", "sequences_at_once"]

_MAX_TOKENS = 2048
"""Most tokens of several sequences that run together. More are not faster, and other calls would
wait longer for their turn."""


def sequences_at_once(length: int) -> int:
    """Return how many sequences of a length run together at most."""
    return max(1, _MAX_TOKENS // max(1, length))


@dataclass(slots=True)
class ForwardRun:
    """The run of one request. A step takes at most the time of one attention block."""

    model: WholeModel
    plans: tuple[StackPlan, ...]
    """The stacks that run, in order. The second stack attends to the output of the first."""
    memory: NDArray[Any] | None
    """(batch_size, memory_len, width): the encoder's output, if the encoder does not run."""
    memory_lengths: NDArray[np.int64] | None
    outputs: ForwardOutputs
    options: RunOptions | None = None

    def __post_init__(self) -> None:
        self.outputs.lengths = tuple(map(int, self.plans[0].lengths))
        self.outputs.layers_run = tuple(plan.layers_run() for plan in self.plans)

    def steps(self) -> Iterator[None]:
        """Compute the outputs step by step."""
        for sequences in self._groups():
            memory = self._memory_of(sequences)
            for plan in self.plans:
                is_last = plan is self.plans[-1]
                memory = yield from _StackRun(self, plan, sequences, memory, is_last).steps()

    def num_keys(self, plan: StackPlan, kind: str) -> int:
        """Return the length of the axis of keys in a response."""
        if kind == "self":
            return plan.seq_len
        return self.plans[0].seq_len if self.memory is None else int(self.memory.shape[1])

    def _groups(self) -> Iterator[NDArray[np.int64]]:
        """Yield groups of sequences that run together: equal lengths, and equal rows of weights."""
        lengths = [plan.lengths for plan in self.plans]
        if self.memory_lengths is not None:
            lengths.append(self.memory_lengths)
        rows_differ = any(weights.rows for plan in self.plans for weights in plan.weights)
        by_key: defaultdict[object, list[int]] = defaultdict(list)
        for sequence in range(len(lengths[0])):
            key = sequence if rows_differ else tuple(int(each[sequence]) for each in lengths)
            by_key[key].append(sequence)
        longest = [max(int(each[group[0]]) for each in lengths) for group in by_key.values()]
        for group, length in zip(by_key.values(), longest, strict=True):
            count = sequences_at_once(length)
            yield from (np.array(group[i : i + count]) for i in range(0, len(group), count))

    def _memory_of(self, sequences: NDArray[np.int64]) -> NDArray[Any] | None:
        if self.memory is None or self.memory_lengths is None:
            return None
        length = int(self.memory_lengths[sequences[0]])
        return np.ascontiguousarray(self.memory[sequences, :length], self.model.config.dtype)


@dataclass(slots=True)
class _StackRun:
    """The run of one stack for sequences of one length."""

    whole: ForwardRun
    plan: StackPlan
    sequences: NDArray[np.int64]
    """Indices of the sequences in the batch."""
    memory: NDArray[Any] | None
    """The encoder's output, which cross-attention attends to."""
    is_last: bool
    """Whether no other stack needs the output."""

    def steps(self) -> Generator[None, None, NDArray[Any] | None]:
        """Run the stack step by step; the generator's value is its output, if it is needed."""
        plan, states = self.plan, self._embed()
        yield
        for layer in range(plan.first_layer, plan.num_layers + plan.has_partial_layer):
            if layer in plan.hidden_states:
                self._collect_states(layer, states)
            for sublayer in plan.stack.layers[layer]:
                result = yield from self._run_sublayer(layer, sublayer, states)
                if result is None:  # the layers above are not needed
                    return None
                states = result
        if plan.num_layers in plan.hidden_states:
            self._collect_states(plan.num_layers, states)
        if self.is_last and not plan.need_output:
            return None
        if plan.is_finished and plan.stack.finish >= 0:
            states = self._run(plan.stack.finish, hidden_states=states)
        if plan.need_output:
            outputs = self.whole.outputs
            outputs.output = self._collected(outputs.output, states)
        return states

    @property
    def length(self) -> int:
        """Number of positions of each sequence."""
        return int(self.plan.lengths[self.sequences[0]])

    def _run(self, segment: int, **feeds: NDArray[Any]) -> NDArray[Any]:
        return self.whole.model.run(segment, feeds, self.whole.options)

    def _embed(self) -> NDArray[Any]:
        plan, dtype = self.plan, self.whole.model.config.dtype
        if plan.is_hidden:
            hidden = plan.inputs[self.sequences, : self.length]
            return np.ascontiguousarray(hidden, dtype)
        if plan.stack.input == "token_ids":
            feeds = {"token_ids": plan.inputs}
            if plan.token_types is not None:
                feeds["token_type_ids"] = plan.token_types
            of_group = {
                name: np.ascontiguousarray(array[self.sequences, : self.length])
                for name, array in feeds.items()
            }
            return self._run(plan.stack.embed, **of_group)
        inputs = np.ascontiguousarray(plan.inputs[self.sequences], dtype)
        return self._run(plan.stack.embed, **{plan.stack.input: inputs})

    def _run_sublayer(
        self, layer: int, sublayer: Sublayer, states: NDArray[Any]
    ) -> Generator[None, None, NDArray[Any] | None]:
        """Run a sublayer; the generator's value is the hidden states after it.

        It is None if nothing above the sublayer is needed.
        """
        of_layer = [each for each in self.plan.attention_requests if each.layer == layer]
        requests = [each for each in of_layer if each.kind == sublayer.kind]
        needs_cross = sublayer.kind == "self" and len(requests) < len(of_layer)
        need_states = layer < self.plan.num_layers or needs_cross
        if not (need_states or requests):
            return None
        normed = states
        if sublayer.enter >= 0:
            normed = self._run(sublayer.enter, hidden_states=states)
        block = self.whole.model.block(self.plan.stack.name, layer, sublayer.kind)
        keys = self.memory if sublayer.kind == "cross" else normed
        assert keys is not None
        attention = LayerAttention(block, normed, keys, self.whole.options)
        attended = yield from self._attend(attention, requests, need_output=need_states)
        if attended is None:
            return None
        states_after = self._run(
            sublayer.leave, hidden_states=states, attended=attended, attention_input=normed
        )
        yield
        return states_after

    def _attend(
        self,
        attention: LayerAttention,
        requests: list[PlannedWeights | PlannedVectors],
        *,
        need_output: bool,
    ) -> Generator[None, None, NDArray[Any] | None]:
        """Run a block for weights, vectors and output; the generator's value is the output.

        Each selection is a step, because a request may have thousands of them.
        """
        output = None
        for each in requests:
            if isinstance(each, PlannedVectors):
                outputs = self._run_vectors(each, attention, need_output and output is None)
                if outputs.output is not None:
                    output = outputs.output
                    self.whole.outputs.is_fused &= outputs.is_fused
                yield
                continue
            rows = each.rows_of(self.sequences[0])
            existing = tuple(row for row in rows if row < self.length)
            if rows and not existing:  # padding has no weights
                self._weights_of(each, attention)
                continue
            selection = replace(each.selection, queries=existing)
            outputs = attention.run(selection, need_output=need_output and output is None)
            if outputs.output is not None:
                output = outputs.output
                self.whole.outputs.is_fused &= outputs.is_fused
            self._collect_weights(each, attention, outputs)
            yield
        if need_output and output is None:
            outputs = attention.run(None, need_output=True)
            output = outputs.output
            self.whole.outputs.is_fused &= outputs.is_fused
        return output

    def _run_vectors(
        self,
        request: PlannedVectors,
        attention: LayerAttention,
        need_output: bool,  # noqa: FBT001
    ) -> AttentionOutputs:
        """Run a block for vectors of heads, and copy them to the arrays of all sequences."""
        lengths = attention.query.shape[1], attention.key.shape[1]
        selection = request.selection.within(*lengths)
        outputs = attention.run(None, need_output=need_output, vectors=selection)
        config, vectors = attention.block.config, self.whole.outputs.vectors
        if request.index not in vectors:
            num_keys = self.whole.num_keys(self.plan, request.kind)
            num_sequences = len(self.plan.lengths)
            vectors[request.index] = request.selection.zeros(
                config, num_sequences, self.plan.seq_len, num_keys
            )
        assert outputs.vectors is not None
        request.selection.copy(outputs.vectors, vectors[request.index], self.sequences, *lengths)
        return outputs

    def _collect_states(self, layer: int, states: NDArray[Any]) -> None:
        all_states, name = self.whole.outputs.hidden_states, LayerName(self.plan.stack.name, layer)
        all_states[name] = self._collected(all_states.get(name), states)

    def _collected(self, all_states: NDArray[Any] | None, states: NDArray[Any]) -> NDArray[Any]:
        """Copy states to the array of all sequences, whose padding is zeros; return this array."""
        states = on_host(states)
        shape = (len(self.plan.lengths), self.plan.seq_len, states.shape[2])
        if states.shape == shape:
            return states
        if all_states is None:
            all_states = np.zeros(shape, states.dtype)
        all_states[self.sequences, : self.length] = states
        return all_states

    def _collect_weights(
        self, request: PlannedWeights, attention: LayerAttention, outputs: AttentionOutputs
    ) -> None:
        """Copy weights to the arrays of all sequences; use them uncopied if they are of all."""
        weights, top_keys = outputs.attn_weights, outputs.top_keys
        assert weights is not None
        if weights.shape == self._weights_shape(request, attention):
            queries = _queries_of(request)
            self.whole.outputs.weights[request.index] = LayerWeights(weights, top_keys, queries)
            return
        target, rows = self._weights_of(request, attention), request.rows_of(self.sequences[0])
        places = [i for i, row in enumerate(rows) if row < self.length] or slice(self.length)
        for number, sequence in enumerate(self.sequences):
            target.attn_weights[sequence][:, places, : weights.shape[-1]] = weights[number]
            if target.top_keys is not None and top_keys is not None:
                target.top_keys[sequence][:, places, : weights.shape[-1]] = top_keys[number]

    def _weights_shape(
        self, request: PlannedWeights, attention: LayerAttention
    ) -> tuple[int, int, int, int]:
        """Return the shape of the weights of all sequences."""
        selection, plan = request.selection, self.plan
        num_keys = self.whole.num_keys(plan, request.kind)
        num_heads = len(selection.heads) or attention.block.config.num_heads
        return (
            len(plan.lengths),
            1 if selection.average_heads else num_heads,
            len(request.rows_of(0)) or plan.seq_len,
            min(selection.top_k or num_keys, num_keys),
        )

    def _weights_of(self, request: PlannedWeights, attention: LayerAttention) -> LayerWeights:
        """Return the arrays for the weights of all sequences; make them for the first."""
        all_weights, selection = self.whole.outputs.weights, request.selection
        if request.index not in all_weights:
            shape = self._weights_shape(request, attention)
            padding = 0.0 if selection.stage == Stage.WEIGHTS else -np.inf
            attn_weights = np.full(shape, padding, self.whole.model.config.dtype)
            top_keys = None
            if selection.top_k:  # padding comes last, and keys of equal weight are in order
                top_keys = np.empty(shape, np.int32)
                top_keys[...] = np.arange(shape[-1], dtype=np.int32)
            all_weights[request.index] = LayerWeights(attn_weights, top_keys, _queries_of(request))
        return all_weights[request.index]


def _queries_of(request: PlannedWeights) -> NDArray[np.int32] | None:
    """Return the query rows of each sequence, if they differ."""
    return np.array(request.rows, np.int32) if request.rows else None
