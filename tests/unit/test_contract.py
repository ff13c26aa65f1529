"""`make check` compares the contract with the last release's, and refuses what breaks callers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUF = shutil.which("buf", path=str(Path(sys.executable).parent))
FIELD = "  int64 model_version = 2;\n"

pytestmark = pytest.mark.skipif(BUF is None, reason="buf is not installed: polyhead[dev] brings it")


def breaking(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [BUF, "breaking", "--against", ROOT / "protos/released.binpb"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("", 'field "2" with name "model_version"'),
        ("  int32 model_version = 2;\n", 'changed type from "int64" to "int32"'),
        ("  int64 version = 2;\n", 'changed name from "model_version" to "version"'),
        (FIELD + "  // New.\n  int64 added = 99;\n", ""),
    ],
)
def test_what_breaks_callers_is_refused(tmp_path, now, said):
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    file = tmp_path / "protos/polyhead/v1/attention.proto"
    text = file.read_text()
    assert FIELD in text
    file.write_text(text.replace(FIELD, now, 1))
    result = breaking(tmp_path)
    assert said in result.stdout, result.stdout + result.stderr
    assert (result.returncode != 0) == bool(said), result.stdout + result.stderr
