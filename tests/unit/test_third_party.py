"""Files whose content is not written here, or is data, have a row in THIRD_PARTY.md."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    ".github benchmarks client constraints deploy docs explorer models protos server tests website"
)
WRITTEN = {
    *(".cfg", ".css", ".html", ".ini", ".js", ".json", ".md", ".proto", ".py", ".pyi", ".sh"),
    *(".toml", ".tpl", ".ts", ".txt", ".typed", ".yaml", ".yml"),
}
"""Suffixes of what people write. Every other file is data and needs a row."""
OTHERS = re.compile(
    rb"Copyright (\(c\)|[12]\d{3})|SPDX-License-Identifier|@license|@preserve"
    rb"|Permission is hereby granted|Redistribution and use in source|Licensed under the"
)
"""What licences ask copies to keep."""
SELF = {"THIRD_PARTY.md", "tests/unit/test_third_party.py"}


def our_files() -> list[str]:
    """List the repository's files, from its folders, because an sdist has no git."""
    paths = [path for folder in FOLDERS.split() for path in (ROOT / folder).rglob("*")]
    names = (path.relative_to(ROOT).as_posix() for path in paths if path.is_file())
    made = re.compile(r"(^|/)(__pycache__|node_modules|\.[a-z]+_cache)/|\.egg-info/|\.pyc$")
    return [name for name in names if not made.search(name)]


def listed(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def is_from_others(name: str, content: bytes) -> bool:
    """Whether a file is data, is minified, keeps a licence, or describes a protocol of others."""
    path = Path(name)
    return (
        (path.suffix or path.name) not in WRITTEN | {"Dockerfile"}
        or bool(OTHERS.search(content))
        or (path.suffix in {".js", ".css"} and max(map(len, content.split(b"\n"))) > 1000)
        or (path.suffix == ".proto" and not name.startswith("protos/polyhead/"))
        or name.startswith("tests/data/golden/")
    )


@pytest.fixture(scope="module")
def patterns() -> list[str]:
    rows = re.findall(r"^\| (`.*?`) \|", (ROOT / "THIRD_PARTY.md").read_text(), re.MULTILINE)
    return [pattern for row in rows for pattern in re.findall(r"`([^`]+)`", row)]


def test_files_of_others_are_listed(patterns):
    unlisted = [
        name
        for name in our_files()
        if name not in SELF
        and is_from_others(name, (ROOT / name).read_bytes())
        and not listed(name, patterns)
    ]
    assert not unlisted, "each needs a row in THIRD_PARTY.md that says where it comes from"


def test_what_is_listed_exists(patterns):
    assert patterns
    names = our_files()
    assert [p for p in patterns if not any(fnmatch(name, p) for name in names)] == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("explorer/polyhead_explorer/page/vendor/d3.js", b"// @license ISC"),
        ("explorer/polyhead_explorer/page/d3.js", b"x=1;" * 1000),
        ("explorer/polyhead_explorer/page/inter.woff2", b""),
        ("protos/google/rpc/status.proto", b""),
        ("client/polyhead/copied.py", b"# Copyright 2024 Somebody\n"),
        ("tests/data/vocab", b""),
    ],
)
def test_what_others_made_is_recognised(name, content, patterns):
    assert is_from_others(name, content)
    assert not listed(name, patterns)
