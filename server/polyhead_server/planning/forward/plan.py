"""Plans a request to a whole model: which layers run, and what of them is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyhead_server.engine.forward_run import ForwardRun, PlannedWeights, StackPlan
from polyhead_server.forward_call import ForwardOutputs, LayerName
from polyhead_server.planning.forward.inputs import ForwardInputs, refuse
from polyhead_server.planning.forward.size import check_response_size
from polyhead_server.planning.plan import check_selection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead_server.call import WeightsSelection
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardCall, Token, WantedWeights
    from polyhead_server.settings import ServerSettings

__all__ = ["ForwardPlan", "plan_forward"]


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """A request that fits its model and the limits."""

    run: ForwardRun
    call: ForwardCall
    """The request, with the full name of each layer that it wants."""
    response_bytes: int
    """Upper bound of the response's size."""


def plan_forward(call: ForwardCall, model: WholeModel, settings: ServerSettings) -> ForwardPlan:
    """Check a request against its model. Raises InvalidRequestError and LimitExceededError."""
    inputs = ForwardInputs(call, model)
    planner = _Planner(call, model, inputs)
    run = ForwardRun(
        model,
        tuple(planner.stack_plan(name) for name in inputs.stacks),
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
        self._stacks = {name: model.config.stack(name) for name in inputs.stacks}
        self._hidden = [
            self._named(f"hidden_states_wanted[{index}]", layer, is_hidden=True)
            for index, layer in enumerate(call.hidden_states)
        ]
        if call.has_all_hidden_states:
            self._hidden = [*self._all_hidden_states()]
        self._wanted = [each for wanted in call.weights for each in self._by_layer(wanted)]
        self.call = replace(
            call,
            hidden_states=tuple(self._hidden),
            weights=tuple(replace(wanted, layer=layer) for layer, wanted in self._wanted),
        )
        """The request, with the full name of each layer that it wants."""

    def stack_plan(self, name: str) -> StackPlan:
        """Plan one stack."""
        stack, entered, call = self._stacks[name], self._inputs.stacks[name], self._call
        is_last = name == [*self._stacks][-1]
        weights = tuple(
            self._weights(index, layer, wanted)
            for index, (layer, wanted) in enumerate(self._wanted)
            if layer.stack == name
        )
        hidden = tuple(layer.layer for layer in self._hidden if layer.stack == name)
        end = self._end(name)
        num_layers = max([entered.first_layer, *hidden, *(each.layer for each in weights)])
        if num_layers > end or any(each.layer >= end for each in weights):
            refuse(
                "last_layer", f"is {call.last_layer}, and a layer above is wanted", "INVALID_VALUE"
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
            weights=weights,
            need_output=call.need_output and is_last,
            is_finished=call.last_layer is None or not is_last,
        )

    def _end(self, name: str) -> int:
        """Return the number of a stack's layers up to the last one that may run."""
        last, total = self._call.last_layer, len(self._stacks[name].layers)
        if last is None or name != [*self._stacks][-1]:
            return total
        first_layer = self._inputs.stacks[name].first_layer
        if not first_layer <= last < total:
            refuse(
                "last_layer", f"expected {first_layer} to {total - 1}; got {last}", "OUT_OF_RANGE"
            )
        return last + 1

    def _all_hidden_states(self) -> Iterator[LayerName]:
        for name, entered in self._inputs.stacks.items():
            for number in range(entered.first_layer, self._end(name) + 1):
                yield LayerName(name, number)

    def _by_layer(self, wanted: WantedWeights) -> Iterator[tuple[LayerName, WantedWeights]]:
        """Yield the layers whose weights are wanted."""
        if wanted.layer is not None:
            yield self._named(f"{wanted.field}.layer", wanted.layer), wanted
            return
        for name, entered in self._inputs.stacks.items():
            for number in range(entered.first_layer, self._end(name)):
                for sublayer in self._stacks[name].layers[number]:
                    yield LayerName(name, number, sublayer.kind), wanted

    def _named(self, field: str, layer: LayerName, *, is_hidden: bool = False) -> LayerName:
        """Return a layer with the name of its stack, checked."""
        names = [*self._stacks]
        name = layer.stack or names[-1 if layer.kind == "cross" else 0]
        if name not in names:
            known = ", ".join(names)
            refuse(
                f"{field}.stack",
                f"expected one of {known}, which this request runs; got {name!r}",
                "INVALID_VALUE",
            )
        layers, first = self._stacks[name].layers, self._inputs.stacks[name].first_layer
        last = len(layers) - (not is_hidden)
        if not first <= layer.layer <= last:
            refuse(
                f"{field}.layer", f"expected {first} to {last}; got {layer.layer}", "OUT_OF_RANGE"
            )
        kinds = ["self"] if is_hidden else [each.kind for each in layers[layer.layer]]
        if layer.kind not in kinds:
            known = " or ".join(kinds)
            refuse(f"{field}.kind", f"expected {known}; got {layer.kind!r}", "INVALID_VALUE")
        return LayerName(name, layer.layer, layer.kind)

    def _weights(self, index: int, layer: LayerName, wanted: WantedWeights) -> PlannedWeights:
        field = wanted.field
        num_heads = self._model.block(*layer).config.num_heads
        seq_len = self._inputs.stacks[layer.stack].seq_len
        selection = check_selection(f"{field}.selection", wanted.selection, num_heads, seq_len)
        rows: tuple[tuple[int, ...], ...] = ()
        if wanted.words:
            rows = self._rows_of_words(f"{field}.query_words", wanted.words, selection)
        return PlannedWeights(index, layer.layer, layer.kind, selection, rows)

    def _rows_of_words(
        self, field: str, words: tuple[str, ...], selection: WeightsSelection
    ) -> tuple[tuple[int, ...], ...]:
        """Find the last token of each word in each text, wherever it occurs."""
        texts, tokens = self._call.texts, self._inputs.tokens
        if not tokens:
            refuse(
                field,
                "names words, and the request has no texts; select queries by their index",
                "NOT_APPLICABLE",
            )
        found = []
        for index, text in enumerate(texts):
            rows = [*selection.queries]
            for word in words:
                of_word = _rows_of_word(word, text, tokens[index])
                if not of_word:
                    refuse(field, f"{word!r} is not a word of texts[{index}]", "NOT_FOUND")
                rows += of_word
            found.append(tuple(dict.fromkeys(rows)))
        if len({len(rows) for rows in found}) > 1:
            refuse(
                field,
                "the words occur more often in some texts than in others; send these one by one",
                "SHAPE_MISMATCH",
            )
        return tuple(found)


def _rows_of_word(word: str, text: str, tokens: tuple[Token, ...]) -> list[int]:
    ends = [match.end() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
    return [
        row
        for end in ends
        for row, token in enumerate(tokens)
        if word and token.start < end <= token.end
    ]
