"""Reads a mix: the calls that the users of a load test make, their shares and their arguments.

mix.toml documents the format. This module needs neither Locust nor a server.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

from polyhead import Weights
from polyhead.bench.lengths import parse_lengths
from polyhead.bench.plan import Transport

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Mix", "MixError", "Stage", "Work", "read_mix"]

CALLS = ("attend", "attend_rows", "forward")
_SIMPLE: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": (int, float)}
"""Types of entries that are checked by the annotations of the dataclasses."""


class MixError(ValueError):
    """A mix that cannot be read. The message names the file, the entry, and what was expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One kind of call."""

    name: str
    """Its line in the report."""
    call: str
    """The client's method: ``attend``, ``attend_rows`` or ``forward``."""
    share: float = 1.0
    """Its frequency, relative to the other calls."""
    model: str = ""
    """Name of the model; empty means the server's first model that can answer this call."""
    layer: int = 0
    """attend, attend_rows: the layer of a whole model."""
    tokens: tuple[int, ...] = (16,)
    """attend, attend_rows: lengths of sequences, in equal shares."""
    batch_size: int = 1
    """attend, attend_rows: number of sequences in a request."""
    texts: tuple[str, ...] = ()
    """forward: the texts, one in each call."""
    weights: bool | Weights = False
    """The requested attention weights."""
    layers: tuple[int, ...] = ()
    """forward: layers whose weights are requested, -1 for the last; empty means all."""
    output: bool = True
    """Whether the output is requested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A step of the load: a number of users for some seconds."""

    users: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """The calls of the users of a load test, and the settings of their client."""

    work: tuple[Work, ...]
    """The calls that each user makes, drawn by their shares."""
    timeout_s: float = 10.0
    """Longest wait for a response, in seconds."""
    wait_s: tuple[float, float] = (0.0, 0.0)
    """Least and most seconds that a user waits between two calls."""
    connections: int = 4
    """Number of connections of each process, which it uses in turn."""
    transport: Transport = "unary"
    """``unary``: each attend is a separate call. ``stream``: the calls share streams."""
    stage: tuple[Stage, ...] = ()
    """The numbers of users one after the other; empty means that Locust's flags set the number."""


def read_mix(path: Path) -> Mix:
    """Read a mix. Raises MixError."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MixError(f"{path}: cannot be read as TOML: {error}") from None
    try:
        values = _checked(Mix, entries, "the file")
        values["work"] = tuple(map(_work, _tables(values["work"], "work")))
        values["stage"] = tuple(map(_stage, _tables(values.get("stage", []), "stage")))
        return _mix(values)
    except MixError as error:
        raise MixError(f"{path}: {error}") from None


def _mix(values: dict[str, Any]) -> Mix:
    if values.get("transport", "unary") not in get_args(Transport):
        raise MixError(f"transport: expected unary or stream; got {values['transport']!r}")
    if "wait_s" in values:
        values["wait_s"] = _pair(values["wait_s"])
    for name in ("timeout_s", "connections"):
        _check_positive(values, name, "the file")
    return Mix(**values)


def _work(entry: dict[str, Any]) -> Work:
    name = entry.get("name", "")
    place = f"work {name!r}"
    values = _checked(Work, entry, place)
    if values["call"] not in CALLS:
        raise MixError(f"{place}: call: expected {', '.join(CALLS)}; got {values['call']!r}")
    for each in ("share", "batch_size"):
        _check_positive(values, each, place)
    if "tokens" in values:
        values["tokens"] = _lengths(values["tokens"], place)
    for each, kind in (("texts", str), ("layers", int)):
        if each in values:
            values[each] = _list_of(kind, values[each], f"{place}: {each}")
    if values["call"] == "forward" and not values.get("texts"):
        raise MixError(f"{place}: texts: expected at least one text, because forward sends texts")
    values["weights"] = _weights(values.get("weights", False), place)
    return Work(**values)


def _stage(entry: dict[str, Any]) -> Stage:
    values = _checked(Stage, entry, "stage")
    for name in ("users", "seconds"):
        _check_positive(values, name, "stage")
    return Stage(**values)


def _weights(value: object, place: str) -> bool | Weights:
    if isinstance(value, bool):
        return value
    if not isinstance(value, dict):
        raise MixError(f"{place}: weights: expected true, false or a table; got {value!r}")
    return Weights(**_checked(Weights, value, f"{place}: weights"))


def _lengths(value: object, place: str) -> tuple[int, ...]:
    try:
        return parse_lengths(str(value))
    except ValueError as error:
        raise MixError(f"{place}: tokens: {error}") from None


def _list_of(kind: type[Any], value: object, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        raise MixError(f"{place}: expected a list of {kind.__name__}; got {value!r}")
    return tuple(value)


def _pair(value: object) -> tuple[float, float]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(each, int | float) for each in value)
        or not 0 <= value[0] <= value[1]
    ):
        raise MixError(f"wait_s: expected two numbers, least and most seconds; got {value!r}")
    return float(value[0]), float(value[1])


def _tables(value: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise MixError(f"{name}: expected tables, each beginning with [[{name}]]")
    if name == "work" and not value:
        raise MixError("work: expected at least one table that begins with [[work]]")
    return value


def _checked(kind: type, entries: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a copy of the entries. Raises MixError unless they are fields of a dataclass."""
    expected_fields = {field.name: field for field in fields(kind)}
    if unknown := sorted(set(entries) - set(expected_fields)):
        raise MixError(
            f"{place}: no such entry: {unknown[0]!r}; expected {', '.join(expected_fields)}"
        )
    for name, field in expected_fields.items():
        if name not in entries and field.default is MISSING:
            raise MixError(f"{place}: {name}: is missing")
        expected = _SIMPLE.get(str(field.type), (object,))
        if name in entries and not isinstance(entries[name], expected):
            raise MixError(f"{place}: {name}: expected {field.type}; got {entries[name]!r}")
    return dict(entries)


def _check_positive(values: dict[str, Any], name: str, place: str) -> None:
    if name in values and not values[name] > 0:
        raise MixError(f"{place}: {name}: expected a number above 0; got {values[name]!r}")
