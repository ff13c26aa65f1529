"""Explains why ONNX Runtime could not load a model, in words that callers may read."""

from __future__ import annotations

import re

__all__ = ["load_failure"]

_REASONS = (
    (
        r'External data path does not exist: "(?:[^"]*[/\\])?([^"/\\]{1,100})"',
        "it keeps weights in a file of their own, {0!r}, which is missing",
    ),
    (  # a subgraph's weights
        r"should be stored in (?:.*[/\\])?([^/\\]{1,100}), but it is not regular file",
        "it keeps weights in a file of their own, {0!r}, which is missing or not a regular file",
    ),
    (
        (
            r"External data path escapes|Absolute path not allowed for external data"
            r"|points outside the directory|resolves outside model directory"
            r"|but it is (?:an absolute path|a symbolic link)"
        ),
        "it keeps weights in a file outside of its own folder, which is not allowed",
    ),
    (
        r"External initializer: |require a regular file|cannot get file size",
        "a file of its weights is too short, or is not a file",
    ),
    (r"[Ss]ystem ?[Ee]rror (?:number|:) 13\b", "the server may not read one of its files"),
    (
        r"No Op registered for ([\w.-]{1,100}) with domain_version of (\d{1,9})\b",
        "it uses the operator {0} of opset {1}, which ONNX Runtime {version} does not have",
    ),
    (
        r"Fatal error: ([\w.-]{1,100}):([\w.-]{1,100})\(-?\d+\) is not a registered function/op",
        "it uses the operator {1} of the domain {0}, which ONNX Runtime {version} does not have",
    ),
    (
        r"No opset import for domain '([\w.-]{1,100})'",
        "it uses the domain {0}, and does not import a version of it",
    ),
    (
        r"Could not find an implementation for ([\w.-]{1,100})\((\d{1,9})\)",
        "it uses the operator {0}, version {1}, on types that ONNX Runtime {version} lacks here",
    ),
    (
        r"Unsupported model IR version: (\d{1,9}), max supported IR version: (\d{1,9})\b",
        "its IR version is {0}; ONNX Runtime {version} reads up to {1}",
    ),
    (
        r"Opset (\d{1,9}) is under development",
        "it uses opset {0}, which ONNX Runtime {version} does not know",
    ),
)
"""Patterns of ONNX Runtime's messages (1.28 to 1.32), because its exceptions tell no more. What a
pattern captures comes from the file, so it is short, and no path."""


def load_failure(error: Exception, version: str) -> str:
    """Return the reason of an error that InferenceSession raised; ``version``: ONNX Runtime's."""
    for pattern, reason in _REASONS:
        if match := re.search(pattern, str(error)):
            return reason.format(*match.groups(), version=version)
    return "ONNX Runtime cannot read the file as a model"
