"""A real checkpoint by the commands alone: export checkpoint, serve, attend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from minilm import MINILM, needs_minilm
from serving import command, serving

RECORDED = Path(__file__).parents[1] / "data" / "golden" / "minilm_river_bank.npz"


def run(*arguments: object) -> str:
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@needs_minilm
@pytest.mark.parametrize("layer", [0, 5])
def test_weights_by_the_commands_are_the_recorded_ones(tmp_path, layer):
    recorded = np.load(RECORDED)
    question, answer, picture = (tmp_path / name for name in ("in.npz", "out.npz", "heads.png"))
    hidden_states = recorded[f"layer{layer}.hidden_states"]
    np.savez(question, query=hidden_states, tokens=recorded["tokens"][0])

    repository = tmp_path / "models"
    printed = run(
        "export", "checkpoint", MINILM, "--layer", layer, "--name", "minilm", "--out", repository
    )
    assert "12 heads of 32" in printed
    with serving("--models", repository) as server:
        pictured = ["--png", picture] if layer == 0 else []
        run("attend", question, "--model", "minilm", "--server", server.address, "--weights",
            "--out", answer, *pictured)  # fmt: skip
        assert "encoder.layer" in run("models", "--server", server.address)

    result = np.load(answer)
    expected = recorded[f"layer{layer}.attn_output"]
    np.testing.assert_allclose(
        result["attn_weights"], recorded[f"layer{layer}.attn_weights"], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        result["output"], expected, rtol=0, atol=2e-5 * np.abs(expected).max()
    )
    if layer == 0:
        assert picture.read_bytes().startswith(b"\x89PNG")


PEAK = """
import re, sys
from pathlib import Path
from polyhead.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@needs_minilm
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read where Linux tells it")
def test_exporting_a_layer_reads_that_layer_and_not_the_checkpoint(tmp_path):
    """90 MB of checkpoint, 2.4 MB of which are the layer's: twice those and 150 MB are allowed."""
    arguments = ["export", "checkpoint", MINILM, "--layer", 0, "--name", "m", "--out", tmp_path]
    ended = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    weights = 4 * (384 + 1) * 384 * 4
    assert int(ended.stdout.splitlines()[-1]) * 1024 < 2 * weights + 150e6
