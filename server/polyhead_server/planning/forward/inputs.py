"""Reads and checks the inputs of each stack of a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from polyhead_server.errors import quoted
from polyhead_server.planning.forward.stack_input import StackInput, lengths_of, refuse
from polyhead_server.planning.forward.token_inputs import TokenInputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.whole_config import Stack
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardCall, TokenizedText

__all__ = ["ForwardInputs"]

_FIELDS = ("texts", "token_ids", "pixel_values", "input_features", "hidden_states")
_NEEDED = {
    "lengths": ("token_ids", "hidden_states"),
    "decoder_lengths": ("decoder_token_ids",),
    "memory_lengths": ("memory",),
    "first_layer": ("hidden_states",),
    "token_type_ids": ("token_ids",),
    "text_pairs": ("texts",),
}
"""Fields that need another field, and the fields that they need."""
_MAX_SEQUENCES = 1 << 17
"""Most sequences of a request. To group so many by their lengths takes 0.1 s."""


class ForwardInputs:
    """The inputs of a request. Raises InvalidRequestError if they do not fit the model."""

    def __init__(
        self, call: ForwardCall, model: WholeModel, tokens: tuple[TokenizedText, ...]
    ) -> None:
        self._call = call
        self._config = model.config
        self.tokens = tokens
        """Tokens of the texts, if there are texts."""
        self._token_inputs = TokenInputs(call, model, tokens)
        self._check_needed_fields()
        self._check_number()
        self.stacks = self._read_stacks()
        """The inputs of the stacks that run, by name, in the order of their runs."""
        self.memory, self.memory_lengths = self._read_memory()

    def refuse_stack(self, field: str, name: str) -> NoReturn:
        """Raise InvalidRequestError for a stack that does not run."""
        stacks = {stack.name: stack for stack in self._config.stacks}
        if name not in stacks:
            problem = f"expected {' or '.join(stacks)}, which the model has; got {quoted(name)}"
            refuse(field, problem, "INVALID_VALUE")
        needed = stacks[name].input
        if self._config.has_memory and name == self._config.stacks[-1].name:
            needed = "decoder_token_ids"
        refuse(
            field,
            f"the {name} does not run, because the request has no {needed}; send it, or leave the "
            f"{name}'s layers out",
            "INVALID_VALUE",
        )

    @property
    def batch_size(self) -> int:
        """Number of sequences."""
        return len(next(iter(self.stacks.values())).lengths)

    def _check_needed_fields(self) -> None:
        """Refuse fields that need another field, if it is not set."""
        call = self._call
        fields = [name for name, lengths in call.lengths.items() if lengths]
        fields += ["first_layer"] if call.first_layer else []
        fields += ["token_type_ids"] if "token_type_ids" in call.arrays else []
        fields += ["text_pairs"] if call.text_pairs else []
        present = {*call.arrays, *(["texts"] if call.texts else [])}
        for field in fields:
            needed = _NEEDED[field]
            if not present & {*needed}:
                names = " or ".join(needed)
                refuse(field, f"is set without {names}; leave it out", "NOT_APPLICABLE")

    def _check_number(self) -> None:
        """Refuse more sequences than one step can process."""
        for field, array in self._call.arrays.items():
            if array.ndim and len(array) > _MAX_SEQUENCES:
                refuse(
                    f"{field}.shape",
                    f"expected at most {_MAX_SEQUENCES} sequences; got {len(array)}; send some at "
                    "a time",
                    "TOO_MANY",
                )

    def _read_stacks(self) -> dict[str, StackInput]:
        call = self._call
        is_set = {**dict.fromkeys(call.arrays, True), "texts": bool(call.texts)}
        fields = [name for name in _FIELDS if is_set.get(name)]
        is_decoding = "memory" in call.arrays and "decoder_token_ids" in call.arrays
        if len(fields) > 1 or not (fields or is_decoding):
            got = " and ".join(fields) or "none"
            if len(fields) > 1 and len(self._config.stacks) > 1 and not self._config.has_memory:
                got += ": a request runs one tower, so send one for each"
            refuse("input", f"expected one of {', '.join(_FIELDS)}; got {got}", "REQUIRED")
        inputs = {}
        for field in fields:
            stack = self._stack_of(field)
            inputs[stack.name] = self._read(field, stack)
        if "decoder_token_ids" in call.arrays:
            decoder = self._config.stacks[-1]
            problem = ""
            if not self._config.has_memory:
                problem = "is set, but the model has no decoder; leave it out"
            elif decoder.name in inputs:
                problem = "is set, but hidden_states enter the decoder; leave one of them out"
            if problem:
                refuse("decoder_token_ids", problem, "NOT_APPLICABLE")
            inputs[decoder.name] = self._token_inputs.read_ids("decoder_token_ids", decoder)
        sizes = {len(stack_input.lengths) for stack_input in inputs.values()}
        if len(sizes) > 1:
            refuse(
                "decoder_token_ids.shape",
                f"expected as many sequences as the encoder's input has; got {sorted(sizes)}",
                "SHAPE_MISMATCH",
            )
        return inputs

    def _stack_of(self, field: str) -> Stack:
        """Return the stack that takes a field."""
        stacks = {stack.name: stack for stack in self._config.stacks}
        if field == "hidden_states":
            first = self._call.first_layer
            name = first.stack if first and first.stack else next(iter(stacks))
            if name not in stacks:
                self.refuse_stack("first_layer.stack", name)
            return stacks[name]
        stack_input = "token_ids" if field == "texts" else field
        matches = [stack for stack in stacks.values() if stack.input == stack_input]
        is_decoder = matches and self._config.has_memory and matches[0] is self._config.stacks[-1]
        if not matches or is_decoder:
            first_stacks = [*stacks.values()][: 1 if self._config.has_memory else None]
            expected = " or ".join(sorted({each.input for each in first_stacks}))
            refuse(field, f"is set, but the model takes {expected}", "NOT_APPLICABLE")
        return matches[0]

    def _read(self, field: str, stack: Stack) -> StackInput:
        match field:
            case "texts":
                return self._token_inputs.read_texts(stack)
            case "token_ids":
                return self._token_inputs.read_ids("token_ids", stack)
            case "hidden_states":
                return self._read_hidden_states(stack)
        array = self._finite(field)
        length = stack.length_of(array.shape[1:])
        if not length:
            axes = ", ".join(str(axis or "any") for axis in stack.input_shape)
            patch = " x ".join(map(str, stack.patch_size))
            least = f" with at least a patch of {patch}" if patch else ""
            refuse(
                f"{field}.shape",
                f"expected (batch_size, {axes}){least}; got {list(array.shape)}",
                "SHAPE_MISMATCH",
            )
        return StackInput(array, np.full(len(array), length), length)

    def _read_hidden_states(self, stack: Stack) -> StackInput:
        states, first = self._finite("hidden_states"), self._call.first_layer
        if states.ndim != 3 or states.shape[2] != stack.hidden_size:
            refuse(
                "hidden_states.shape",
                f"expected (batch_size, seq_len, hidden_size={stack.hidden_size}); got "
                f"{list(states.shape)}",
                "SHAPE_MISMATCH",
            )
        number, last = first.layer if first else 0, len(stack.layers)
        if not 0 <= number <= last:
            problem = f"expected a layer from 0 to {last}; got {number}"
            refuse("first_layer.layer", problem, "OUT_OF_RANGE")
        lengths = lengths_of(self._call, "lengths", *states.shape[:2])
        return StackInput(states, lengths, states.shape[1], number, is_hidden=True)

    def _read_memory(self) -> tuple[NDArray[Any] | None, NDArray[np.int64] | None]:
        """Read the encoder's output, which the decoder needs if the encoder does not run."""
        decoder = self._config.stacks[-1].name
        is_decoder_alone = self._config.has_memory and [*self.stacks] == [decoder]
        if ("memory" in self._call.arrays) != is_decoder_alone:
            problem = "is required, because the decoder runs without the encoder"
            if not is_decoder_alone:
                problem = "is set, but no decoder runs without its encoder; leave one of them out"
            refuse("memory", problem, "REQUIRED" if is_decoder_alone else "NOT_APPLICABLE")
        if not is_decoder_alone:
            return None, None
        memory, width = self._finite("memory"), self._config.stacks[0].output_size
        shape = (self.batch_size, *memory.shape[1:2], width)
        if memory.shape != shape:
            refuse(
                "memory.shape",
                f"expected (batch_size={self.batch_size}, memory_len, {width}); got "
                f"{list(memory.shape)}",
                "SHAPE_MISMATCH",
            )
        return memory, lengths_of(self._call, "memory_lengths", *memory.shape[:2])

    def _finite(self, field: str) -> NDArray[Any]:
        array = self._call.arrays[field]
        if not np.isfinite(array).all():
            refuse(field, "holds NaN or infinity; expected finite numbers", "NON_FINITE")
        return array
