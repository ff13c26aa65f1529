"""A real checkpoint through the commands export checkpoint, serve and attend."""

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
def test_the_commands_give_the_recorded_weights(tmp_path, layer):
    recorded = np.load(RECORDED)
    inputs, outputs, picture = (tmp_path / name for name in ("in.npz", "out.npz", "heads.png"))
    hidden_states = recorded[f"layer{layer}.hidden_states"]
    np.savez(inputs, query=hidden_states, tokens=recorded["tokens"][0])

    repository = tmp_path / "models"
    printed = run(
        "export", "checkpoint", MINILM, "--layer", layer, "--name", "minilm", "--out", repository
    )
    assert "12 heads of 32" in printed
    with serving("--models", repository) as server:
        pictured = ["--png", picture] if layer == 0 else []
        run("attend", inputs, "--model", "minilm", "--server", server.address, "--weights",
            "--out", outputs, *pictured)  # fmt: skip
        assert "encoder.layer" in run("models", "--server", server.address)

    result = np.load(outputs)
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
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_exporting_a_layer_does_not_read_the_whole_checkpoint(tmp_path):
    """The checkpoint has 90 MB, the layer 2.4 MB: twice the layer and 150 MB are allowed."""
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
