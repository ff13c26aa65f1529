"""A standard stream that is closed at the start is replaced by the null device."""

from __future__ import annotations

import subprocess
import sys

import pytest

CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-", ""]
PROGRAM = """
import os, subprocess, sys
from polyhead.standard_streams import open_closed_streams
open_closed_streams()
with open(sys.argv[1], "w") as file:  # would get the number of a closed stream
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.write("text ")
        stream.flush()
        os.write(number, b"bytes ")
        child = f"import os; os.write({number}, b'child')"
        subprocess.run([sys.executable, "-c", child], check=True)
    file.write(sys.stdin.read() or "nothing")
"""


def run_closed(closed, *arguments):
    """Run Python with the streams closed that a shell's redirections name."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-X", "dev", *arguments],
        input="typed",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_what_is_printed_does_not_reach_a_file_that_is_opened_later(closed, tmp_path):
    run = run_closed(closed, "-c", PROGRAM, str(tmp_path / "file"))
    assert run.returncode == 0
    assert (tmp_path / "file").read_text() == ("nothing" if "<&-" in closed else "typed")
    assert run.stderr == ("" if "2>&-" in closed else "text bytes child")
    assert run.stdout == ("" if " >&-" in f" {closed}" else "text bytes child")


@pytest.mark.parametrize("closed", CLOSED)
def test_commands_run_with_closed_streams(closed):
    """A command that prints to stdout, and one that fails with a message on stderr."""
    run = run_closed(closed, "-m", "polyhead", "--help")
    assert run.returncode == 0
    assert run.stderr == ""
    assert ("polyhead" in run.stdout) == (" >&-" not in f" {closed}")
    run = run_closed(closed, "-m", "polyhead", "attend", "/none.npy", "--model", "x")
    assert run.returncode == 2
    assert run.stdout == ""
    assert ("cannot read /none.npy" in run.stderr) == ("2>&-" not in closed)
