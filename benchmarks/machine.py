"""What the measurements ran on, in words."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import polyhead
from polyhead_server.engine.runtime import onnxruntime_version

__all__ = ["describe_machine", "vector_instructions"]

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "i8mm": "NEON int8 matrix product",
}
"""Linux's names for what ONNX Runtime's kernels differ by, and the makers' names."""


def describe_machine() -> str:
    """Say in two lines of Markdown what the measurements run on, and when."""
    facts = _cpu_facts()
    model = facts.get("model name", platform.machine())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {model} ({vector_instructions()}), "
        f"{os.cpu_count()} CPUs, {memory_gib:.0f} GiB, {platform.system()};\n"
        f"Python {platform.python_version()}, NumPy {np.__version__}, "
        f"ONNX Runtime {onnxruntime_version()}, polyhead {polyhead.__version__}."
    )


def vector_instructions() -> str:
    """Name the CPU's vector instructions; products of 8-bit integers depend on them."""
    facts = _cpu_facts()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    names = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    return ", ".join(names) or "no vector instructions known here"


def _cpu_facts() -> dict[str, str]:
    """What /proc/cpuinfo says of the first CPU."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n", maxsplit=1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
