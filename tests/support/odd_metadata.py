"""Metadata of models as damage and malice make them."""

from __future__ import annotations

import copy
import json

__all__ = ["mutated"]

_VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    5,
    300,
    2**20,
    2**31 - 1,
    2**31,
    2**62,
    10**400,
    -0.5,
    1e-30,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "self",
    "cross",
    "encoder",
    "float16",
    "pixel_values",
    "\ud800",
    "x" * 10_000,
    [],
    {},
    [[]],
    [0, 0],
    [3, 2**31 - 1, 2**31 - 1],
)


def mutated(text, random):
    """Change a few places of a JSON text; ``random``: a random.Random."""
    if random.random() < 0.05:
        return _mutated_text(text, random)
    root = [json.loads(text)]
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = list(_places(root))
        container, key = random.choice(places)
        match random.randrange(6):
            case 0 | 1:
                container[key] = copy.deepcopy(random.choice(_VALUES))
            case 2 if isinstance(container[key], int):
                container[key] += random.choice([-2, -1, 1, 2, 100])
            case 3 if container is not root:
                del container[key]
            case 4 if isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            case 5:
                other, place = random.choice(places)
                container[key] = copy.deepcopy(other[place])
            case _ if isinstance(container, dict):
                container[random.choice(["surprise", "block", "layers", *container])] = 1
    return json.dumps(root[0])


def _places(container):
    """Yield each container of a tree with each of its keys or indices."""
    keys = container.keys() if isinstance(container, dict) else range(len(container))
    for key in keys:
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _places(container[key])


def _mutated_text(text, random):
    """Make a text that need not be JSON."""
    place = random.randrange(len(text))
    deep = random.choice([50, 5000, 100_000])
    return random.choice(
        [
            text[:place],
            text[:place] + chr(random.randrange(128)) + text[place + 1 :],
            text[:place] + text[place:] * 2,
            "[" * deep,
            text.replace("[", "[" * deep, 1),
            '{"stacks": ' * deep + "1" + "}" * deep,
            text.replace("0", "9" * 5000, 1),
        ]
    )
