"""What is fuzzed: a module for each target, with the bytes that are known to be good.

``check(data)`` gives the bytes of an input to the code under test. It returns, or raises what makes
the input a finding; errors that callers are meant to get do not leave it. ``seeds()`` returns the
inputs from which fuzzing starts. `python -m tests.fuzz` runs a target under atheris, and
tests/unit/test_fuzz_corpus.py runs each with the corpus.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each target, of inputs that together reach what fuzzing has reached."""
TARGETS = (
    "attend_requests",
    "forward_requests",
    "infer_requests",
    "stream_messages",
    "templates",
    "responses",
    "graphs",
    "model_files",
    "model_metadata",
    "tokenizers",
)


def target(name):
    """Return the module of a target."""
    assert name in TARGETS, f"{name!r} is not one of {', '.join(TARGETS)}"
    return import_module(f"tests.fuzz.{name}")


def corpus(name):
    """Return the files of a target's corpus, in the order of their names."""
    return sorted((CORPUS / name).iterdir())
