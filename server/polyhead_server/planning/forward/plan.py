"""Plans a request to a whole model: the layers that run, and the results of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from polyhead.words import last_tokens_in_texts, spans_by_text
from polyhead_server.call import LayerName
from polyhead_server.engine.runs.forward_run import ForwardRun
from polyhead_server.engine.runs.stack_plan import PlannedVectors, PlannedWeights, StackPlan
from polyhead_server.engine.runs.step_cost import has_short_steps
from polyhead_server.errors import quoted
from polyhead_server.forward_call import ForwardOutputs
from polyhead_server.planning.forward.inputs import ForwardInputs
from polyhead_server.planning.forward.size import check_response_size
from polyhead_server.planning.forward.stack_input import refuse
from polyhead_server.planning.forward.tokens import read_tokens
from polyhead_server.planning.selections import check_gives_vectors, check_selection, check_vectors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from polyhead_server.call import WeightsSelection
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardCall, RequestedVectors, RequestedWeights
    from polyhead_server.settings import ServerSettings

__all__ = ["ForwardPlan", "plan_forward"]

_Requested = TypeVar("_Requested", "RequestedWeights", "RequestedVectors")

_MAX_WORDS = 256
"""Most words in a selection."""
_MAX_WORDS_IN_TEXTS = 1 << 16
"""Most searches for a word in a text, over all different selections."""
_SEQUENCE_BYTES, _ROW_BYTES = 128, 64
"""Memory of a sequence, and of a row of weights that a word selects."""
_MAX_QUOTED = 100
"""Most characters of a word in a message."""


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """A request that fits its model and the limits."""

    run: ForwardRun
    call: ForwardCall
    """The request, with the full name of each requested layer."""
    response_bytes: int
    """Upper bound of the response's size."""
    has_short_steps: bool
    """Whether no step of the run is so long that short runs must not wait for it."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences that enter the stacks."""
        return sum(int(plan.lengths.sum()) for plan in self.run.plans)


def plan_forward(
    call: ForwardCall, model: WholeModel, settings: ServerSettings
) -> Generator[int, None, ForwardPlan]:
    """Check a request against its model step by step; the generator's value is the plan.

    Each step yields the memory that it takes, in bytes, if the request determines how much. Raises
    InvalidRequestError, LimitExceededError and ModelUnavailableError.
    """
    tokens = yield from read_tokens(call, model, settings)
    inputs = ForwardInputs(call, model, tokens)
    yield inputs.batch_size * _SEQUENCE_BYTES
    planner = _Planner(call, model, inputs)
    stack_plans = []
    for name in inputs.stacks:
        stack_plan = yield from planner.stack_plan(name)
        stack_plans.append(stack_plan)
    run = ForwardRun(
        model,
        tuple(stack_plans),
        inputs.memory,
        inputs.memory_lengths,
        ForwardOutputs(tokens=inputs.tokens, has_stacks=len(model.config.stacks) > 1),
    )
    response_bytes = check_response_size(planner.call, run, settings)
    return ForwardPlan(run, planner.call, response_bytes, has_short_steps(run))


class _Planner:
    """Decides which layers of each stack run."""

    def __init__(self, call: ForwardCall, model: WholeModel, inputs: ForwardInputs) -> None:
        self._call = call
        self._model = model
        self._inputs = inputs
        self._rows: dict[tuple[tuple[str, ...], tuple[int, ...]], tuple[tuple[int, ...], ...]] = {}
        """Rows of each text, by the words and the indices that select them."""
        self._num_searched = 0
        """Number of searches for a word in a text so far."""
        self._stacks = {name: model.config.stack(name) for name in inputs.stacks}
        self._hidden = [
            self._checked_name(f"hidden_states_wanted[{index}]", layer, is_hidden=True)
            for index, layer in enumerate(call.hidden_states)
        ]
        if call.has_all_hidden_states:
            self._hidden = [*self._all_hidden_states()]
        self._weights_by_layer = [
            each for requested in call.weights for each in self._by_layer(requested)
        ]
        self._vectors_by_layer = [
            each for requested in call.vectors for each in self._by_layer(requested)
        ]
        self.call = replace(
            call,
            hidden_states=tuple(self._hidden),
            weights=tuple(
                replace(requested, layer=layer) for layer, requested in self._weights_by_layer
            ),
            vectors=tuple(
                replace(requested, layer=layer) for layer, requested in self._vectors_by_layer
            ),
        )
        """The request, with the full name of each requested layer."""

    def stack_plan(self, name: str) -> Generator[int, None, StackPlan]:
        """Plan one stack step by step; the generator's value is the plan."""
        stack, stack_input, call = self._stacks[name], self._inputs.stacks[name], self._call
        is_last = name == [*self._stacks][-1]
        weights = []
        for index, (layer, requested) in enumerate(self._weights_by_layer):
            if layer.stack == name:
                planned = yield from self._weights(index, layer, requested)
                weights.append(planned)
        vectors = []
        for index, (layer, requested_vectors) in enumerate(self._vectors_by_layer):
            if layer.stack == name:
                vectors.append(self._planned_vectors(index, layer, requested_vectors))
                yield 0
        hidden = tuple(layer.layer for layer in self._hidden if layer.stack == name)
        end = self._end(name)
        attention_layers = [each.layer for each in weights] + [each.layer for each in vectors]
        num_layers = max([stack_input.first_layer, *hidden, *attention_layers])
        # the hidden states after the last layer have the number of the next one
        highest = max([0, *hidden, *(layer + 1 for layer in attention_layers)]) - 1
        if highest >= end:
            refuse(
                "last_layer",
                f"is {call.last_layer}, but layer {highest} is needed; raise it, or leave it out",
                "INVALID_VALUE",
            )
        if call.need_output or not is_last:  # the decoder needs the encoder's output
            num_layers = end
        return StackPlan(
            stack=stack,
            inputs=stack_input.array,
            lengths=stack_input.lengths,
            seq_len=stack_input.seq_len,
            num_layers=num_layers,
            first_layer=stack_input.first_layer,
            is_hidden=stack_input.is_hidden,
            token_types=stack_input.token_types,
            hidden_states=hidden,
            weights=tuple(weights),
            vectors=tuple(vectors),
            need_output=call.need_output and is_last,
            is_finished=call.last_layer is None or not is_last,
        )

    def _end(self, name: str) -> int:
        """Return the number of a stack's layers that may run, from layer 0 on."""
        last, total = self._call.last_layer, len(self._stacks[name].layers)
        if last is None or name != [*self._stacks][-1]:
            return total
        first_layer = self._inputs.stacks[name].first_layer
        _check_layer("last_layer", last, first_layer, total - 1)
        return last + 1

    def _all_hidden_states(self) -> Iterator[LayerName]:
        for name, stack_input in self._inputs.stacks.items():
            for number in range(stack_input.first_layer, self._end(name) + 1):
                yield LayerName(name, number)

    def _by_layer(self, requested: _Requested) -> Iterator[tuple[LayerName, _Requested]]:
        """Yield the layers whose weights or vectors are requested."""
        if requested.layer is not None:
            yield self._checked_name(f"{requested.field}.layer", requested.layer), requested
            return
        for name, stack_input in self._inputs.stacks.items():
            for number in range(stack_input.first_layer, self._end(name)):
                for sublayer in self._stacks[name].layers[number]:
                    yield LayerName(name, number, sublayer.kind), requested

    def _checked_name(self, field: str, layer: LayerName, *, is_hidden: bool = False) -> LayerName:
        """Check the name of a layer, and return it with its stack."""
        config = self._model.config
        is_decoders = layer.kind == "cross" and config.has_memory
        name = layer.stack or (config.stacks[-1].name if is_decoders else next(iter(self._stacks)))
        if name not in self._stacks:
            self._inputs.refuse_stack(f"{field}.stack", name)
        layers, first = self._stacks[name].layers, self._inputs.stacks[name].first_layer
        _check_layer(f"{field}.layer", layer.layer, first, len(layers) - (not is_hidden))
        kinds = ["self"] if is_hidden else [each.kind for each in layers[layer.layer]]
        if layer.kind not in kinds:
            expected = " or ".join(kinds)
            problem = f"expected {expected}; got {quoted(layer.kind)}"
            refuse(f"{field}.kind", problem, "INVALID_VALUE")
        return LayerName(name, layer.layer, layer.kind)

    def _weights(
        self, index: int, layer: LayerName, requested: RequestedWeights
    ) -> Generator[int, None, PlannedWeights]:
        field = requested.field
        num_heads = self._model.block(*layer).config.num_heads
        seq_len = self._inputs.stacks[layer.stack].seq_len
        selection = check_selection(f"{field}.selection", requested.selection, num_heads, seq_len)
        rows: tuple[tuple[int, ...], ...] = ()
        if requested.words:
            rows = yield from self._rows_of_words(
                f"{field}.query_words", layer, requested.words, selection
            )
        yield 0
        return PlannedWeights(index, layer.layer, layer.kind, selection, rows)

    def _planned_vectors(
        self, index: int, layer: LayerName, requested: RequestedVectors
    ) -> PlannedVectors:
        block, seq_len = self._model.block(*layer), self._inputs.stacks[layer.stack].seq_len
        num_keys = seq_len
        if layer.kind == "cross":
            memory = self._inputs.memory
            encoder_input = next(iter(self._inputs.stacks.values()))
            num_keys = encoder_input.seq_len if memory is None else memory.shape[1]
        check_gives_vectors(block, requested.selection)
        selection = check_vectors(
            f"{requested.field}.selection",
            requested.selection,
            block.config.num_heads,
            (seq_len, num_keys),
        )
        return PlannedVectors(index, layer.layer, layer.kind, selection)

    def _rows_of_words(
        self, field: str, layer: LayerName, words: tuple[str, ...], selection: WeightsSelection
    ) -> Generator[int, None, tuple[tuple[int, ...], ...]]:
        """Return the rows in each text that indices and words select, equally many in all."""
        problem = ""
        if not self._inputs.tokens:
            problem = "the request has no texts"
        elif layer.stack != next(iter(self._stacks)):
            problem = f"the {layer.stack}'s queries are not the texts'"
        if problem:
            problem = f"names words, and {problem}; select queries by their index"
            refuse(field, problem, "NOT_APPLICABLE")
        key = words, selection.queries
        if key not in self._rows:  # the same selection may be that of several layers
            self._rows[key] = yield from self._find_rows(field, words, selection.queries)
        return self._rows[key]

    def _find_rows(
        self, field: str, words: tuple[str, ...], queries: tuple[int, ...]
    ) -> Generator[int, None, tuple[tuple[int, ...], ...]]:
        """Return the queries, and the indices of the words' last tokens, in each text."""
        words = tuple(dict.fromkeys(words))
        if len(words) > _MAX_WORDS:
            refuse(field, f"expected at most {_MAX_WORDS} words; got {len(words)}", "TOO_MANY")
        call = self._call
        self._num_searched += len(words) * (len(call.texts) + len(call.text_pairs))
        if self._num_searched > _MAX_WORDS_IN_TEXTS:
            refuse(
                field,
                f"expected at most {_MAX_WORDS_IN_TEXTS} words in all texts and selections; send "
                "fewer texts, or the same words for all layers",
                "TOO_MANY",
            )
        rows_by_text: list[tuple[int, ...]] = []
        for index, tokens in enumerate(self._inputs.tokens):
            texts = [each[index] for each in (call.texts, call.text_pairs) if each]
            spans = spans_by_text(
                [(start, end) for start, end in tokens.spans.tolist()],
                tokens.text_indices.tolist(),
                len(texts),
            )
            places = [*queries]
            for word in words:
                occurrences = last_tokens_in_texts(word, texts, spans) if word else []
                if not occurrences:
                    refuse(
                        field,
                        f"{word[:_MAX_QUOTED]!r} is not a word of text {index}; spell it as in the "
                        "text, or select its query by its index",
                        "NOT_FOUND",
                    )
                places += occurrences
                yield 0
            rows_by_text.append(tuple(dict.fromkeys(places)))
            yield len(rows_by_text[-1]) * _ROW_BYTES
        if len({len(rows) for rows in rows_by_text}) > 1:
            refuse(
                field,
                "the words occur more often in some texts than in others; send these one by one",
                "SHAPE_MISMATCH",
            )
        return tuple(rows_by_text)


def _check_layer(field: str, number: int, first: int, last: int) -> None:
    """Raise InvalidRequestError for a layer that does not run."""
    if not first <= number <= last:
        refuse(field, f"expected a layer from {first} to {last}; got {number}", "OUT_OF_RANGE")
