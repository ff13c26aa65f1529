"""What the build makes of the README and of the project's address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hatch_build import ReadmeAndUrls

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = "https://git.example.org/team/polyhead"


@pytest.fixture
def update(tmp_path, monkeypatch) -> Callable[[str, str], dict[str, Any]]:
    """A function that returns the metadata of a README and an address."""

    def call(readme: str, address: str) -> dict[str, Any]:
        (tmp_path / "README.md").write_text(readme, encoding="utf-8")
        monkeypatch.setenv("POLYHEAD_PROJECT_URL", address)
        metadata = {"version": "1.2.3"}
        ReadmeAndUrls(str(tmp_path), {}).update(metadata)
        return metadata

    return call


@pytest.mark.parametrize(
    ("readme", "linked", "named"),
    [
        ("[a.md](a.md)", "[a.md](ADDRESS/blob/v1.2.3/a.md)", "a.md"),
        ("[`a.md`](a.md)", "[`a.md`](ADDRESS/blob/v1.2.3/a.md)", "`a.md`"),
        (
            "[two\nlines](d/a.md#b)",
            "[two\nlines](ADDRESS/blob/v1.2.3/d/a.md#b)",
            "two\nlines (d/a.md#b)",
        ),
        ("![maps](a.png)", "![maps](ADDRESS/raw/v1.2.3/a.png)", "maps"),
        (
            "[![maps](a.png)](é.md)",
            "[![maps](ADDRESS/raw/v1.2.3/a.png)](ADDRESS/blob/v1.2.3/é.md)",
            "maps (é.md)",
        ),
    ],
)
def test_relative_links_lead_to_the_tag_or_name_the_file(update, readme, linked, named):
    assert update(readme, ADDRESS)["readme"] == {
        "content-type": "text/markdown",
        "text": linked.replace("ADDRESS", ADDRESS),
    }
    assert update(readme, "")["readme"]["text"] == named


@pytest.mark.parametrize("address", ["", ADDRESS])
@pytest.mark.parametrize(
    "readme",
    [
        "[b](#b)",
        "[x](https://x.example/y.md)",
        "![x](https://x.example/y.png)",
        "<mailto:a@b.example>",
    ],
)
def test_other_links_stay(update, readme, address):
    assert update(readme, address)["readme"]["text"] == readme


def test_the_address_gives_the_projects_urls(update):
    assert update("", ADDRESS)["urls"] == {
        "Documentation": f"{ADDRESS}/blob/v1.2.3/README.md",
        "Source": ADDRESS,
        "Changelog": f"{ADDRESS}/blob/v1.2.3/CHANGELOG.md",
        "Issues": f"{ADDRESS}/issues",
    }
    assert update("", "")["urls"] == {}


@pytest.mark.parametrize(
    "address",
    [
        "git.example.org/team/polyhead",
        "http://git.example.org/team/polyhead",
        "https://git.example.org",
        "https://git.example.org/team/polyhead/",
        "https://git.example.org/team/polyhead.git",
        "https://user:secret@git.example.org/team/polyhead",
        "https://git.example.org/team/polyhead?tab=readme",
        "https://git.example.org/team/poly head",
        "https://git.example.org/team/polyhead\n",
        "git@git.example.org:team/polyhead",
        " ",
    ],
)
def test_a_malformed_address_is_refused_with_what_is_expected(update, address):
    expected = r"POLYHEAD_PROJECT_URL is .*; expected .*https://HOST/OWNER/NAME"
    with pytest.raises(ValueError, match=expected):
        update("", address)
