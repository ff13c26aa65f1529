"""The changelog has the form of Keep a Changelog, and the version has one source."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

from packaging.version import Version

from polyhead._version import __version__

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
RELEASE = re.compile(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})")


def headings(level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.*)$", CHANGELOG, re.MULTILINE)


def test_unreleased_changes_come_first_and_then_the_newest_release():
    first, *releases = headings(2)
    assert first == "[Unreleased]"
    assert all(map(RELEASE.fullmatch, releases)), "expected ## [X.Y.Z] - YYYY-MM-DD"
    found = [RELEASE.fullmatch(release).groups() for release in releases]
    versions = [Version(version) for version, _ in found]
    dates = [date.fromisoformat(day) for _, day in found]
    assert versions == sorted(versions, reverse=True)
    assert dates == sorted(dates, reverse=True)
    assert not versions or versions[0] <= Version(__version__)


def test_changes_are_grouped_by_their_kind():
    assert set(headings(3)) <= KINDS
    for section in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert len(kinds) == len(set(kinds)), f"a kind appears twice in {section[:20]!r}"
        assert kinds or section.partition("\n")[2].strip() == ""


def test_the_version_has_one_source():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "client/polyhead/_version.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+|\.dev\d+)?", __version__)
