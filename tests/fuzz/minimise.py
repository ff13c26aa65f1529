"""Makes a target's corpus: few and small files that together reach what many reach."""

from __future__ import annotations

import hashlib
import sys
from contextlib import contextmanager

MAX_FILES, MAX_BYTES = 48, 4096
_PARTS = ("/polyhead/", "/polyhead_server/", "/polyhead_models/", "/fuzz/json_values.py")


def minimise(target, files, corpus):
    """Write to the folder ``corpus`` what adds steps from one line to another, smallest first."""
    kept, reached = [], set()
    target.check(target.seeds()[0])
    inputs = {file.read_bytes() for file in files} | {*target.seeds()}
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        if len(data) <= MAX_BYTES:
            with _steps() as found:
                target.check(data)
            if found - reached:
                kept.append((len(found - reached), data))
                reached |= found
    kept.sort(key=lambda entry: -entry[0])
    for file in corpus.iterdir():
        file.unlink()
    for _, data in kept[:MAX_FILES]:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{len(kept)} inputs of {len(inputs)} reach {len(reached)} steps")


@contextmanager
def _steps():
    """Collect the steps of polyhead's code from one line to another."""
    steps = set()

    def trace(frame, event, _):
        code = frame.f_code
        if event != "call" or not any(part in code.co_filename for part in _PARTS):
            return None
        before = 0

        def trace_line(frame, event, _):
            nonlocal before
            if event in {"line", "return"}:
                steps.add((code.co_filename, code.co_name, before, frame.f_lineno, event))
                before = frame.f_lineno
            return trace_line

        return trace_line

    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(None)
