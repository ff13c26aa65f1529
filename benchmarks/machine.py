"""Describes the machine of the measurements."""

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
"""CPU flags in Linux on which ONNX Runtime's choice of kernels depends, and their usual names."""


def describe_machine() -> str:
    """Describe machine, versions and date in two lines of Markdown."""
    fields = _cpu_fields()
    model = fields.get("model name", platform.machine())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {model} ({vector_instructions()}), "
        f"{os.cpu_count()} CPUs, {memory_gib:.0f} GiB, {platform.system()};\n"
        f"Python {platform.python_version()}, NumPy {np.__version__}, "
        f"ONNX Runtime {onnxruntime_version()}, polyhead {polyhead.__version__}."
    )


def vector_instructions() -> str:
    """Return the names of the CPU's vector instructions, on which 8-bit matrix products depend."""
    fields = _cpu_fields()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    names = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    return ", ".join(names) or "no known vector instructions"


def _cpu_fields() -> dict[str, str]:
    """Return the fields of the first CPU in /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n", maxsplit=1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
