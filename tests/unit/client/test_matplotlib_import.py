"""Pictures are drawn whatever MPLBACKEND names, and the process's own backend stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

DRAW = """
import os, sys
import numpy as np
from polyhead import viz
viz.save_heat_maps(sys.argv[1], np.ones((2, 2, 2)), ["a", "b"], ["a", "b"])
"""
PLOT = """
import os, sys
import numpy as np
from polyhead.bench.command import _save_plot, import_matplotlib
import_matplotlib()
from polyhead.bench.report import plot
_save_plot(plot._make_figure("title", columns=1)[0], sys.argv[1])
"""
"""As `polyhead bench --plot` does."""
USE_PYPLOT = """
import matplotlib
from matplotlib import pyplot
print(matplotlib.get_backend(), len(pyplot.get_fignums()), os.environ.get("MPLBACKEND"))
"""
MISSING = [
    "nonsense",
    "module://matplotlib_inline.backend_inline",
    "module://",
    "TkAgg",  # installed with Python or not, and there is no display
]


def draw(program, tmp_path, **environment):
    """Run a program that draws; return the run, and what it has drawn."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "DISPLAY")}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "drawn.png")],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    return run


@pytest.mark.parametrize("program", [DRAW, PLOT])
@pytest.mark.parametrize("backend", MISSING)
def test_a_backend_that_is_missing_does_not_matter(program, backend, tmp_path):
    program += "print(os.environ['MPLBACKEND'])"  # child processes get what the user has set
    run = draw(program, tmp_path, MPLBACKEND=backend)
    assert run.stdout == f"{backend}\n"
    assert run.stderr == ""


@pytest.mark.parametrize("backend", ["nonsense", "module://gone"])
def test_a_missing_backend_in_the_configuration_file_does_not_matter(backend, tmp_path):
    (tmp_path / "matplotlibrc").write_text(f"backend: {backend}\n")
    draw(DRAW, tmp_path, MATPLOTLIBRC=str(tmp_path))


def test_a_backend_that_is_installed_stays_chosen(tmp_path):
    run = draw(DRAW + USE_PYPLOT, tmp_path, MPLBACKEND="svg")
    assert run.stdout == "svg 0 svg\n"


def test_pyplot_works_after_a_missing_backend_was_ignored(tmp_path):
    run = draw(DRAW + USE_PYPLOT, tmp_path, MPLBACKEND="nonsense")
    assert run.stdout.endswith(" 0 nonsense\n")  # after the backend that this machine has


def test_matplotlib_can_be_imported_after_an_import_that_raised(tmp_path):
    refused = """
try:
    import matplotlib
except ValueError:
    pass
else:
    raise AssertionError("matplotlib ignores MPLBACKEND itself")
"""
    run = draw(refused + DRAW + USE_PYPLOT, tmp_path, MPLBACKEND="nonsense")
    assert run.stdout.endswith(" 0 nonsense\n")


def test_a_program_keeps_its_own_backend_and_figures(tmp_path):
    own = 'import matplotlib; matplotlib.use("pdf"); from matplotlib import pyplot; pyplot.figure()'
    run = draw(own + DRAW + USE_PYPLOT, tmp_path)
    assert run.stdout == "pdf 1 None\n"


def test_a_program_that_chose_a_backend_keeps_it_although_the_variable_names_another(tmp_path):
    own = 'import matplotlib; matplotlib.use("pdf")'
    run = draw(own + DRAW + USE_PYPLOT, tmp_path, MPLBACKEND="svg")
    assert run.stdout == "pdf 0 svg\n"
