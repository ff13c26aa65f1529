"""JSON whose values are replaced by others, as an input that is a program says."""

from __future__ import annotations

import json
import math

from tests.fuzz.steps import Steps

MAX_STEPS = 16


def changed(texts, data):
    """Return the number of a text, and that text with values replaced."""
    steps = Steps(data)
    number = steps.next() % len(texts)
    values = json.loads(texts[number])
    for _ in range(MAX_STEPS):
        if steps.is_done:
            break
        _replace(values, steps)
    return number, json.dumps(values)


def programs(texts):
    """Return a few programs for each text."""
    return [bytes([number, *program]) for number in range(len(texts)) for program in _PROGRAMS]


def _replace(values, steps):
    """Go down to some value, and replace it."""
    while True:
        keys = sorted(values) if isinstance(values, dict) else range(len(values))
        if not keys:
            return
        key = keys[steps.next() % len(keys)]
        if isinstance(values[key], (dict, list)) and steps.next() % 8:
            values = values[key]
            continue
        break
    kind = steps.next() % 4
    if kind == 0 and isinstance(values, dict):
        del values[key]
    elif kind == 1 and isinstance(values, list):
        values.append(values[key])
    elif kind == 2 and isinstance(values[key], int):
        values[key] = values[key] * steps.next() + steps.next() - 128
    else:
        values[key] = json.loads(_VALUES[steps.next() % len(_VALUES)])


_PROGRAMS = [[], [1, 3, 2], [5, 0, 2, 2, 9], [0, 1, 1, 1, 1, 3, 4], [9, 3, 11, 7, 3, 12]]
_VALUES = [
    None, True, False, 0, 1, -1, 2, 7, 8, 1 << 20, 1 << 31, 1 << 63, 10**400, 0.0, -0.5, 1e-320,
    1e308, math.inf, -math.inf, math.nan, "", "x", "float16", "int8", "cross", "decoder",
    "input_features", "yarn", "longrope", "\ud800", [], {}, [[]], [1], [1.5, 2.5], [0, 0, 0],
    [8] * 5000,
]  # fmt: skip
_VALUES = list(map(json.dumps, _VALUES))
