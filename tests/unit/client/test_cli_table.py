"""Tables fit a terminal, with rich and without it, and are one line a row elsewhere."""

from __future__ import annotations

import re
import sys

import pytest

from polyhead.cli import table
from polyhead.cli.table import as_table

ROWS = [
    ("NAME", "WIDTH", "ABOUT"),
    ("minilm", "384", "whole, 6 layers, takes texts, float32, bidirectional; checkpoint model"),
    ("[red]", "8", "-"),
]


@pytest.fixture(params=[True, False], ids=["rich", "no rich"])
def terminal(request, monkeypatch):
    """Let standard output be a terminal of 40 columns, in which rich is installed or not."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not request.param:
        monkeypatch.setattr(table, "find_spec", lambda name: None)
    return request.param


def lines_of(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def test_a_row_is_one_line_where_there_is_no_terminal():
    lines = as_table(ROWS, folded=(2,)).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["NAME", "minilm", "[red]"]
    assert lines[1].endswith(ROWS[1][2])


def test_long_cells_are_folded_to_the_terminal(terminal):
    text = as_table(ROWS, folded=(2,))
    lines = lines_of(text)
    assert max(map(len, lines)) <= 40
    assert " ".join(line[15:].strip() for line in lines[1:-1]) == ROWS[1][2]
    assert lines[1].startswith("minilm  384    whole, 6")
    assert lines[-1].split() == ["[red]", "8", "-"]
    assert ("\x1b[1m" in text) == terminal  # bold headings


def test_numbers_are_never_folded(terminal):
    rows = [("MODEL", *(f"COLUMN {n}" for n in range(8))), ("m", *("123.45" for _ in range(8)))]
    assert as_table(rows, str.rjust).splitlines()[1].split() == ["m", *["123.45"] * 8]


def test_numbers_are_aligned_on_the_right(terminal):
    assert lines_of(as_table([("A", "LONG"), ("row", "1")], str.rjust)) == [
        "A    LONG",
        "row     1",
    ]
