"""Plans a request to a whole model: which layers run, and what of them is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from polyhead.words import last_tokens
from polyhead_server.call import LayerName
from polyhead_server.engine.runs.forward_run import ForwardRun
from polyhead_server.engine.runs.stack_plan import PlannedVectors, PlannedWeights, StackPlan
from polyhead_server.forward_call import ForwardOutputs
from polyhead_server.planning.forward.inputs import ForwardInputs, read_tokens, refuse
from polyhead_server.planning.forward.size import check_response_size
from polyhead_server.planning.selections import check_gives_vectors, check_selection, check_vectors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from polyhead_server.call import WeightsSelection
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardCall, WantedVectors, WantedWeights
    from polyhead_server.settings import ServerSettings

__all__ = ["ForwardPlan", "plan_forward"]

_Wanted = TypeVar("_Wanted", "WantedWeights", "WantedVectors")

_MAX_WORDS = 256
"""Most words whose rows a selection may have."""
_MAX_WORDS_IN_TEXTS = 1 << 16
"""Most words that are looked for, each counted once a text, in all selections that differ."""
_SEQUENCE_BYTES, _ROW_BYTES = 128, 64
"""Memory that a sequence takes, and a row of weights that a word selects."""
_MAX_SHOWN = 100
"""Characters of a word that a message repeats."""


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """A request that fits its model and the limits."""

    run: ForwardRun
    call: ForwardCall
    """The request, with the full name of each layer that it wants."""
    response_bytes: int
    """Upper bound of the response's size."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences that enter the stacks."""
        return sum(int(plan.lengths.sum()) for plan in self.run.plans)


def plan_forward(
    call: ForwardCall, model: WholeModel, settings: ServerSettings
) -> Generator[int, None, ForwardPlan]:
    """Check a request against its model step by step; the generator's value is the plan.

    Each step yields the bytes that it takes, as far as a caller could make them many. Raises
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
    return ForwardPlan(run, planner.call, check_response_size(planner.call, run, settings))


class _Planner:
    """Decides for each stack which layers run."""

    def __init__(self, call: ForwardCall, model: WholeModel, inputs: ForwardInputs) -> None:
        self._call = call
        self._model = model
        self._inputs = inputs
        self._rows: dict[tuple[tuple[str, ...], tuple[int, ...]], tuple[tuple[int, ...], ...]] = {}
        """Rows of each text, by the words and the indices that select them."""
        self._num_looked_for = 0
        """Words that were looked for so far, each counted once a text."""
        self._stacks = {name: model.config.stack(name) for name in inputs.stacks}
        self._hidden = [
            self._named(f"hidden_states_wanted[{index}]", layer, is_hidden=True)
            for index, layer in enumerate(call.hidden_states)
        ]
        if call.has_all_hidden_states:
            self._hidden = [*self._all_hidden_states()]
        self._wanted = [each for wanted in call.weights for each in self._by_layer(wanted)]
        self._vectors = [each for wanted in call.vectors for each in self._by_layer(wanted)]
        self.call = replace(
            call,
            hidden_states=tuple(self._hidden),
            weights=tuple(replace(wanted, layer=layer) for layer, wanted in self._wanted),
            vectors=tuple(replace(wanted, layer=layer) for layer, wanted in self._vectors),
        )
        """The request, with the full name of each layer that it wants."""

    def stack_plan(self, name: str) -> Generator[int, None, StackPlan]:
        """Plan one stack step by step; the generator's value is the plan."""
        stack, entered, call = self._stacks[name], self._inputs.stacks[name], self._call
        is_last = name == [*self._stacks][-1]
        weights = []
        for index, (layer, wanted) in enumerate(self._wanted):
            if layer.stack == name:
                planned = yield from self._weights(index, layer, wanted)
                weights.append(planned)
        vectors = []
        for index, (layer, wanted_vectors) in enumerate(self._vectors):
            if layer.stack == name:
                vectors.append(self._planned_vectors(index, layer, wanted_vectors))
                yield 0
        hidden = tuple(layer.layer for layer in self._hidden if layer.stack == name)
        end = self._end(name)
        of_attention = [each.layer for each in weights] + [each.layer for each in vectors]
        num_layers = max([entered.first_layer, *hidden, *of_attention])
        # the hidden states after the last layer have the next one's number
        above = max([0, *hidden, *(layer + 1 for layer in of_attention)]) - 1
        if above >= end:
            refuse(
                "last_layer",
                f"is {call.last_layer}, and layer {above} is needed; raise it, or leave it out",
                "INVALID_VALUE",
            )
        if call.need_output or not is_last:  # the decoder needs the encoder's output
            num_layers = end
        return StackPlan(
            stack=stack,
            inputs=entered.array,
            lengths=entered.lengths,
            seq_len=entered.seq_len,
            num_layers=num_layers,
            first_layer=entered.first_layer,
            is_hidden=entered.is_hidden,
            hidden_states=hidden,
            weights=tuple(weights),
            vectors=tuple(vectors),
            need_output=call.need_output and is_last,
            is_finished=call.last_layer is None or not is_last,
        )

    def _end(self, name: str) -> int:
        """Return the number of a stack's layers up to the last one that may run."""
        last, total = self._call.last_layer, len(self._stacks[name].layers)
        if last is None or name != [*self._stacks][-1]:
            return total
        first_layer = self._inputs.stacks[name].first_layer
        _check_layer("last_layer", last, first_layer, total - 1)
        return last + 1

    def _all_hidden_states(self) -> Iterator[LayerName]:
        for name, entered in self._inputs.stacks.items():
            for number in range(entered.first_layer, self._end(name) + 1):
                yield LayerName(name, number)

    def _by_layer(self, wanted: _Wanted) -> Iterator[tuple[LayerName, _Wanted]]:
        """Yield the layers whose weights or vectors are wanted."""
        if wanted.layer is not None:
            yield self._named(f"{wanted.field}.layer", wanted.layer), wanted
            return
        for name, entered in self._inputs.stacks.items():
            for number in range(entered.first_layer, self._end(name)):
                for sublayer in self._stacks[name].layers[number]:
                    yield LayerName(name, number, sublayer.kind), wanted

    def _named(self, field: str, layer: LayerName, *, is_hidden: bool = False) -> LayerName:
        """Return a layer with the name of its stack, checked."""
        config = self._model.config
        is_decoders = layer.kind == "cross" and config.has_memory
        name = layer.stack or (config.stacks[-1].name if is_decoders else next(iter(self._stacks)))
        if name not in self._stacks:
            self._inputs.refuse_stack(f"{field}.stack", name)
        layers, first = self._stacks[name].layers, self._inputs.stacks[name].first_layer
        _check_layer(f"{field}.layer", layer.layer, first, len(layers) - (not is_hidden))
        kinds = ["self"] if is_hidden else [each.kind for each in layers[layer.layer]]
        if layer.kind not in kinds:
            known = " or ".join(kinds)
            refuse(f"{field}.kind", f"expected {known}; got {layer.kind!r}", "INVALID_VALUE")
        return LayerName(name, layer.layer, layer.kind)

    def _weights(
        self, index: int, layer: LayerName, wanted: WantedWeights
    ) -> Generator[int, None, PlannedWeights]:
        field = wanted.field
        num_heads = self._model.block(*layer).config.num_heads
        seq_len = self._inputs.stacks[layer.stack].seq_len
        selection = check_selection(f"{field}.selection", wanted.selection, num_heads, seq_len)
        rows: tuple[tuple[int, ...], ...] = ()
        if wanted.words:
            rows = yield from self._rows_of_words(
                f"{field}.query_words", layer, wanted.words, selection
            )
        yield 0
        return PlannedWeights(index, layer.layer, layer.kind, selection, rows)

    def _planned_vectors(
        self, index: int, layer: LayerName, wanted: WantedVectors
    ) -> PlannedVectors:
        block, seq_len = self._model.block(*layer), self._inputs.stacks[layer.stack].seq_len
        num_keys = seq_len
        if layer.kind == "cross":
            memory = self._inputs.memory
            entered = next(iter(self._inputs.stacks.values()))
            num_keys = entered.seq_len if memory is None else memory.shape[1]
        check_gives_vectors(block, wanted.selection)
        selection = check_vectors(
            f"{wanted.field}.selection",
            wanted.selection,
            block.config.num_heads,
            (seq_len, num_keys),
        )
        return PlannedVectors(index, layer.layer, layer.kind, selection)

    def _rows_of_words(
        self, field: str, layer: LayerName, words: tuple[str, ...], selection: WeightsSelection
    ) -> Generator[int, None, tuple[tuple[int, ...], ...]]:
        """Return the rows of a selection and of words in each text, equally many."""
        problem = ""
        if not self._inputs.tokens:
            problem = "the request has no texts"
        elif layer.stack != next(iter(self._stacks)):
            problem = f"the {layer.stack}'s queries are not the texts'"
        if problem:
            problem = f"names words, and {problem}; select queries by their index"
            refuse(field, problem, "NOT_APPLICABLE")
        key = words, selection.queries
        if key not in self._rows:  # of all layers they may be the same
            self._rows[key] = yield from self._find_rows(field, words, selection.queries)
        return self._rows[key]

    def _find_rows(
        self, field: str, words: tuple[str, ...], queries: tuple[int, ...]
    ) -> Generator[int, None, tuple[tuple[int, ...], ...]]:
        """Return some queries, and the places of the words' last tokens, in each text."""
        words = tuple(dict.fromkeys(words))
        if len(words) > _MAX_WORDS:
            refuse(field, f"expected at most {_MAX_WORDS} words; got {len(words)}", "TOO_MANY")
        self._num_looked_for += len(words) * len(self._call.texts)
        if self._num_looked_for > _MAX_WORDS_IN_TEXTS:
            refuse(
                field,
                f"expected at most {_MAX_WORDS_IN_TEXTS} words in all texts and selections; send "
                "fewer texts, or the same words for all layers",
                "TOO_MANY",
            )
        found: list[tuple[int, ...]] = []
        for index, (text, tokens) in enumerate(
            zip(self._call.texts, self._inputs.tokens, strict=True)
        ):
            spans, places = [(token.start, token.end) for token in tokens], [*queries]
            for word in words:
                of_word = last_tokens(word, text, spans) if word else []
                if not of_word:
                    refuse(
                        field,
                        f"{word[:_MAX_SHOWN]!r} is not a word of text {index}; spell it as the "
                        "text does, or select its query by its index",
                        "NOT_FOUND",
                    )
                places += of_word
                yield 0
            found.append(tuple(dict.fromkeys(places)))
            yield len(found[-1]) * _ROW_BYTES
        if len({len(rows) for rows in found}) > 1:
            refuse(
                field,
                "the words occur more often in some texts than in others; send these one by one",
                "SHAPE_MISMATCH",
            )
        return tuple(found)


def _check_layer(field: str, number: int, first: int, last: int) -> None:
    """Raise InvalidRequestError for a layer that does not run."""
    if not first <= number <= last:
        refuse(field, f"expected a layer from {first} to {last}; got {number}", "OUT_OF_RANGE")
