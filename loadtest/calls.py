"""Makes the calls of a mix for the models of a server."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mix import MixError

from polyhead.bench.payloads import input_widths, make_payloads
from polyhead.bench.plan import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mix import Mix, Work

    from polyhead import AttentionResult, AttentionRows, Client, ForwardResult
    from polyhead.types import AttentionSpec, ModelInfo

__all__ = ["Call", "make_calls"]

METHODS = {"attend": "Attend", "attend_rows": "AttendRows", "forward": "Forward"}


@dataclass(frozen=True, slots=True)
class Call:
    """A kind of call, with a function that sends it."""

    name: str
    """Its line in the report."""
    method: str
    """The gRPC method."""
    share: float
    """How often it is made, relative to the others."""
    send: Callable[[Client], int]
    """Sends the next request, and returns the number of bytes of the response's arrays. Raises
    PolyheadError."""


def make_calls(mix: Mix, models: Iterable[ModelInfo]) -> tuple[list[Call], list[str]]:
    """Make the calls of a mix. Also returns the names of work for which the server has no model.

    Raises MixError if a named model cannot answer its call, or if there is no call.
    """
    ready = [model for model in models if model.is_ready]
    calls, left_out = [], []
    for work in mix.work:
        model = next((each for each in ready if _can_answer(each, work)), None)
        if model is not None:
            calls.append(Call(work.name, METHODS[work.call], work.share, _sender(work, model)))
        elif work.model:
            raise MixError(f"work {work.name!r}: {_reason(work, ready)}")
        else:
            left_out.append(work.name)
    if not calls:
        raise MixError(f"the server has no model for any work of the mix: {_names(ready)}")
    return calls, left_out


def _can_answer(model: ModelInfo, work: Work) -> bool:
    if work.model and model.name != work.model:
        return False
    if work.call == "forward":
        return model.whole is not None and model.whole.has_tokenizer
    return _block(model, work.layer) is not None


def _reason(work: Work, ready: list[ModelInfo]) -> str:
    if all(model.name != work.model for model in ready):
        return f"the server has no model {work.model!r}: {_names(ready)}"
    if work.call == "forward":
        return f"{work.model!r} takes no texts; expected a whole model with a tokenizer"
    return f"{work.model!r} has no layer {work.layer}"


def _names(ready: list[ModelInfo]) -> str:
    return f"it has {', '.join(sorted({model.name for model in ready})) or 'none'}"


def _block(model: ModelInfo, layer: int) -> AttentionSpec | None:
    """Return the block that a call would run: the model, or a layer of its first stack."""
    if model.whole is None:
        return model.spec
    layers = model.whole.stacks[0].layers
    return layers[layer].self_attention if layer < len(layers) else None


def _sender(work: Work, model: ModelInfo) -> Callable[[Client], int]:
    if work.call == "forward":
        return _forward_sender(work, model)
    requests = itertools.cycle(_attend_requests(work, model))
    if work.call == "attend":
        return lambda client: _num_bytes(client.attend(**next(requests)))

    def send_rows(client: Client) -> int:
        with client.attend_rows(**next(requests)) as blocks:
            return sum(map(_num_bytes, blocks))

    return send_rows


def _attend_requests(work: Work, model: ModelInfo) -> Iterator[dict[str, Any]]:
    """Make the arguments of attend: random embeddings of the work's lengths."""
    spec = _block(model, work.layer)
    assert spec is not None
    workload = Workload(
        model=model.name,
        version=model.version,
        widths=input_widths(spec),
        lengths=work.tokens,
        batch_size=work.batch_size,
        dtype="float16" if spec.precision == "float16" else "float32",
        need_weights=work.weights,
    )
    # no version, because the newest one may change during the load
    options: dict[str, Any] = {"version": None, "need_output": work.output}
    if model.whole is not None:
        options["layer"] = work.layer
    for payload in make_payloads(workload):
        yield payload.arguments | options


def _forward_sender(work: Work, model: ModelInfo) -> Callable[[Client], int]:
    assert model.whole is not None
    num_layers = model.whole.stacks[0].num_layers
    if wrong := [each for each in work.layers if not -num_layers <= each < num_layers]:
        raise MixError(f"work {work.name!r}: {model.name!r} has no layer {wrong[0]}")
    layers = {layer % num_layers: work.weights for layer in work.layers}
    arguments: dict[str, Any] = {
        "model": model.name,
        "need_weights": layers or work.weights,
        "need_output": work.output,
        "truncate": True,
    }
    texts = itertools.cycle(work.texts)
    return lambda client: _num_bytes(client.forward(next(texts), **arguments))


def _num_bytes(result: AttentionResult | AttentionRows | ForwardResult) -> int:
    """Count the bytes of the result's arrays."""
    weights = result.attn_weights
    arrays = [*weights.values()] if isinstance(weights, Mapping) else [weights]
    return sum(array.nbytes for array in (result.output, *arrays) if array is not None)
