"""Every command does what it does otherwise if standard streams are closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CHECKPOINT = Path(__file__).parents[2] / "data" / "golden" / "gemma2"
ATTEND = "attend query.npy --model plain --weights --out out.npz --png a.png"


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("models", []),
        ("info --json", []),
        (ATTEND, ["out.npz", "a.png"]),
        ("bench --model plain --requests 4 --processes 2 --warmup 0 --plot a.png", ["a.png"]),
        ("export checkpoint CHECKPOINT --all-layers --name g --out repo", ["repo/g-1"]),
        ("inspect CHECKPOINT", []),
        ("demo --sentence bank --png a.png", ["a.png"]),
    ],
)
def test_commands_run(server, tmp_path, closed, command, files):
    words = command.replace("CHECKPOINT", str(CHECKPOINT)).split()
    np.save(tmp_path / "query.npy", np.ones((1, 3, 16), np.float32))
    environment = os.environ.copy()
    if not command.startswith("demo"):
        environment["POLYHEAD_SERVER"] = server.target
    run = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$@" {closed}',
            "sh",
            sys.executable,
            "-m",
            "polyhead",
            *words,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0
    assert "Error" not in run.stderr
    assert (run.stdout == "") == (">&-" in closed.split())
    for name in files:
        assert (tmp_path / name).exists()
    if command == ATTEND:
        with np.load(tmp_path / "out.npz") as saved:
            assert set(saved) == {"output", "attn_weights"}
