"""Ten seconds of what `make soak` does for ten minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]


def test_memory_and_descriptors_stay_as_they_are():
    run = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--seconds", "10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
