"""Whatever a client is given, it gives a result or raises a PolyheadError."""

from __future__ import annotations

import inspect
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import polyhead
from polyhead import TLSConfig, Weights
from polyhead_server.running import running_server

pytestmark = pytest.mark.filterwarnings("ignore")  # NumPy warns of some values that it converts


class Odd:
    """An object that converts to nothing."""


VALUES = {
    "object": Odd(),
    "class": Odd,
    "function": len,
    "none in a list": [None],
    "objects": np.array([Odd()], object),
    "negative": -1,
    "huge": 2**70,
    "fraction": 1.5,
    "nan": math.nan,
    "complex": 1j,
    "true": True,
    "false": False,
    "text": "x",
    "empty text": "",
    "surrogate": "\ud800",
    "nul": "\0",
    "bytes": b"x",
    "array of text": np.array("x"),
    "array": np.array([1, 2]),
    "empty array": np.zeros(0),
    "ragged": [[1], [1, 2]],
    "huge numbers": [2**70],
    "path": Path("nowhere"),
    "dict": {"a": None},
    "dict of numbers": {1: "a"},
    "set": {1, 2},
    "pair": ("x", "y"),
    "weights": Weights(heads=Odd(), top_k="x"),
    "more weights": Weights(queries=b"x", dtype=Odd(), stage=[]),
    "tls": TLSConfig(root_certificates="nowhere"),
    "tls of numbers": TLSConfig(private_key=5, certificate_chain=5, server_name=5),
}
QUERY = np.ones((1, 3, 6), np.float32)
CALLS = {
    "attend": {"query": QUERY, "model": "river-bank"},
    "attend_rows": {"query": QUERY, "model": "river-bank"},
    "attend_many": {"requests": [QUERY], "model": "river-bank"},
    "forward": {"text": "x", "model": "river-bank"},
    "model": {"name": "river-bank"},
    "models": {},
    "server_info": {},
    "reload_models": {},
    "is_ready": {},
    "wait_until_ready": {},
}


@contextmanager
def only_polyhead_errors(what):
    try:
        yield
    except polyhead.PolyheadError:
        pass
    except Exception as error:
        error.add_note(what)
        raise


def consume(result):
    for _ in result if hasattr(result, "__next__") else ():
        pass


def names_of(call):
    parameters = inspect.signature(getattr(polyhead.Client, call)).parameters
    return [name for name in parameters if name not in ("self", "shared")]


@pytest.fixture(scope="module")
def river_bank():
    with running_server() as server:
        yield server


@pytest.mark.parametrize("name", names_of("__init__"))
def test_a_client_that_cannot_be_made(name):
    for label, value in VALUES.items():
        arguments = {"target": "localhost:50051", name: value}
        with only_polyhead_errors(f"Client({name}={label})"):
            polyhead.Client(**arguments).close()


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_cannot_be_made(call, river_bank):
    with polyhead.Client(river_bank.target, timeout=20) as client:
        for name in names_of(call):
            for label, value in VALUES.items():
                with only_polyhead_errors(f"{call}({name}={label})"):
                    consume(getattr(client, call)(**CALLS[call] | {name: value}))
