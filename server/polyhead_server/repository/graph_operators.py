"""Finds the operators that a graph uses in its file, before ONNX Runtime reads it.

ONNX Runtime has operators that only its own optimiser may put into graphs, and other builds of it
have more. It also writes out each call of a function that is in the file: 27 functions that call
each other twice become 134 million nodes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from polyhead.wire.protobuf import UnsupportedWireFormat, iter_fields, tag
from polyhead_server.errors import ModelFileError, quoted
from polyhead_server.limits import LoadLimits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["check_operators"]

_DOMAINS = frozenset(("", "ai.onnx.ml", "com.microsoft"))
"""The domains whose operators are served; polyhead's own exports use the first and the last."""
_REFUSED = frozenset(
    ("com.microsoft", name) for name in ("ATen", "EPContext", "PyOp", "PythonOp", "TritonOp")
)
"""Operators of these domains that run compiled code or Python of the file's choice, or read other
files, in builds of ONNX Runtime that have them."""
_TAKEN = ("com.microsoft", "com.ms.", "ai.onnx", "org.pytorch.", "trt.plugins")
"""How domains of ONNX Runtime begin. Where it has an operator, it does not use a function of the
same name that is in the file."""
_ADVICE = {
    "com.microsoft.nchwc": ". ONNX Runtime makes such operators for one kind of CPU; save the "
    "model at its optimization level ORT_ENABLE_EXTENDED or below"
}
_MAX_DEPTH = 100
"""How deep functions may call each other, and graphs be in graphs."""

# the numbers of fields in onnx.proto
_MODEL_GRAPH, _MODEL_FUNCTION = tag(7), tag(25)
_GRAPH_NODE, _FUNCTION_NODE = tag(1), tag(7)
_NODE_ATTRIBUTE, _ATTRIBUTE_GRAPHS = tag(5), {tag(6), tag(11)}
_NODE_NAMES = {tag(7): "domain", tag(4): "name", tag(8): "overload"}
_FUNCTION_NAMES = {tag(10): "domain", tag(1): "name", tag(13): "overload"}


class _Operator(NamedTuple):
    """An operator, or a function of the file, that a node calls."""

    domain: str
    name: str
    overload: str


_Calls = Counter[_Operator]
"""How often a graph or a function calls each operator, in the graphs within it too."""


def check_operators(file: Path, limits: LoadLimits = LoadLimits()) -> None:  # noqa: B008 - it is frozen
    """Raise ModelFileError if a graph uses operators that are not served, or far too many.

    It may use functions of its own file, whose operators are looked at as well.
    """
    try:
        calls, functions = _Reader(file.read_bytes(), limits.max_graph_fields).model()
    except UnsupportedWireFormat:
        raise ModelFileError(
            "the server cannot read the file as a model; expected ONNX's format"
        ) from None
    for operator in sorted(set(calls).union(*functions.values())):
        domain, name, _ = operator
        is_own = operator in functions and not domain.startswith(_TAKEN)
        if (domain not in _DOMAINS or (domain, name) in _REFUSED) and not is_own:
            raise ModelFileError(
                f"it uses the operator {quoted(name)} of the domain {quoted(domain)}; expected "
                "operators of ONNX, ai.onnx.ml and com.microsoft, and functions that are in the "
                f"file{_ADVICE.get(domain, '')}"
            )
    if _num_nodes(calls, functions, {}, 0) > limits.max_graph_nodes:
        raise ModelFileError(
            f"it has more than {limits.max_graph_nodes:,} nodes, where each call of a function of "
            "its own is as many as are in that"
        )


def _num_nodes(
    calls: _Calls, functions: dict[_Operator, _Calls], known: dict[_Operator, int], depth: int
) -> int:
    """Count nodes after writing out calls of functions; ``known``: the counts of functions."""
    if depth > _MAX_DEPTH:
        raise ModelFileError(
            f"it has functions that call each other more than {_MAX_DEPTH} deep, or themselves"
        )
    for operator in calls.keys() & functions.keys() - known.keys():
        known[operator] = _num_nodes(functions[operator], functions, known, depth + 1)
    return sum(count * known.get(operator, 1) for operator, count in calls.items())


class _Reader:
    """Reads the calls of a model's nodes from its file, and skips everything else."""

    def __init__(self, data: bytes, max_fields: int) -> None:
        self._data = data
        self._max_fields = max_fields
        self._num_fields = 0

    def model(self) -> tuple[_Calls, dict[_Operator, _Calls]]:
        """Return the calls of the graph, and those of each function.

        Raises UnsupportedWireFormat if the bytes are no model, ModelFileError for too many fields.
        """
        calls: _Calls = Counter()
        functions: dict[_Operator, _Calls] = {}
        for field, start, end in self._fields(0, len(self._data)):
            if field == _MODEL_GRAPH:
                self._graph(start, end, calls, 0)
            elif field == _MODEL_FUNCTION:
                inner: _Calls = Counter()
                function = self._function(start, end, inner)
                # several of one name count together, because it is not said which is used
                functions.setdefault(function, Counter()).update(inner)
        return calls, functions

    def _function(self, start: int, end: int, calls: _Calls) -> _Operator:
        """Add the calls in a function to ``calls``, and return the operator that calls it."""
        names = {}
        for field, first, last in self._fields(start, end):
            if field == _FUNCTION_NODE:
                calls[self._node(first, last, calls, 0)] += 1
            elif field in _FUNCTION_NAMES:
                names[_FUNCTION_NAMES[field]] = self._text(first, last)
        return _operator(**names)

    def _graph(self, start: int, end: int, calls: _Calls, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise UnsupportedWireFormat  # nor does protobuf read it
        for field, first, last in self._fields(start, end):
            if field == _GRAPH_NODE:
                calls[self._node(first, last, calls, depth)] += 1

    def _node(self, start: int, end: int, calls: _Calls, depth: int) -> _Operator:
        """Read a node with the graphs in its attributes, and return the operator that it calls."""
        names = {}
        for field, first, last in self._fields(start, end):
            if field in _NODE_NAMES:  # of equal fields the last counts, as for protobuf
                names[_NODE_NAMES[field]] = self._text(first, last)
            elif field == _NODE_ATTRIBUTE:
                for inner, graph_start, graph_end in self._fields(first, last):
                    if inner in _ATTRIBUTE_GRAPHS:
                        self._graph(graph_start, graph_end, calls, depth + 1)
        return _operator(**names)

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].decode("utf-8", "replace")

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        for parsed in iter_fields(self._data, start, end):
            self._num_fields += 1
            if self._num_fields > self._max_fields:
                raise ModelFileError(f"its graph has more than {self._max_fields:,} fields")
            yield parsed


def _operator(domain: str = "", name: str = "", overload: str = "") -> _Operator:
    return _Operator("" if domain == "ai.onnx" else domain, name, overload)
