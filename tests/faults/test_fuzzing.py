"""A few seconds of what `make fuzz` does for a minute each."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests import fuzz

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not find_spec("atheris"), reason="atheris has no wheel for this machine"),
]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_nothing_is_found(name):
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", "2"]
    run = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-6000:]
