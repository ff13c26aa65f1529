"""The server runs with the lowest protobuf that pyproject.toml allows."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
LOADED = """
import sys
import polyhead_server.process.app, polyhead_server.process.workers.supervisor
for name, module in sorted(sys.modules.items()):
    if name.endswith("_pb2") and not name.startswith("google.protobuf."):
        print(module.__file__)
"""
MADE_FOR = re.compile(r"Domain\.PUBLIC,\s*(\d+),\s*(\d+),\s*(\d+),")


def lowest_protobuf():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [needed] = (r for r in map(Requirement, project["dependencies"]) if r.name == "protobuf")
    [lowest] = (s.version for s in needed.specifier if s.operator == ">=")
    return tuple(map(int, lowest.split(".")))


def test_no_stub_that_serving_needs_refuses_the_lowest_protobuf():
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = {Path(file).name for file in loaded}
    assert {"attention_pb2.py", "health_pb2.py", "reflection_pb2.py"} <= names
    for file in loaded:
        made_for = MADE_FOR.search(Path(file).read_text())
        assert tuple(map(int, made_for.groups())) <= lowest_protobuf(), file
