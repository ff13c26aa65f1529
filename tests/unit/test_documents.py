"""What the documents say of the code is so."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

import polyhead
from polyhead.errors import __all__ as errors
from polyhead_models.checkpoint.families import FAMILIES
from polyhead_models.commands.export import CHECKPOINT
from polyhead_server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
SETTINGS_HEAD = (
    "| flag | default | meaning |\n|---|---|---|\n"  # a comment in it would end the table
)
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/*.md")]


def anchor(heading: str) -> str:
    """What GitHub calls the place of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document):
    text = document.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, place = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {link}"
        assert target.resolve().is_relative_to(ROOT), f"{document.name} links to {link}"
        if place:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert place in map(anchor, headings), f"{document.name} links to {link}"


def families_in(text: str) -> set[str]:
    """Names of families in a list, spelled as model_type does but for hyphens and the like."""
    names = re.split(r"[,;.\n]+", re.sub(r"(?m)\([^)]*\)|^ *- \w+:", "", text))
    return {re.sub(r"[\W_]", "", name).lower() for name in names} - {""}


def test_readme_and_help_name_every_family():
    known = families_in(",".join(re.sub(r"(_text|_vision)(_model)?$", "", t) for t in FAMILIES))
    listed = (ROOT / "README.md").read_text().partition("what transformers computes:\n")[2]
    assert families_in(listed.partition("\nA decoder that")[0]) == known
    listed = CHECKPOINT.partition("families:\n")[2].partition("examples:")[0]
    assert families_in(listed) == known


def settings_table() -> str:
    """The README's table of flags, from the settings themselves."""
    parser = argparse.ArgumentParser(add_help=False)
    ServerSettings.add_arguments(parser)
    rows = []
    for action in parser._actions:
        text, _, note = action.help.rpartition(" [")
        default = note.removesuffix("]").partition("default: ")[2]
        rows.append(f"| `{action.option_strings[0]}` | {default and f'`{default}`'} | {text} |")
    return "\n".join(rows)


def test_readme_lists_every_flag_with_its_default():
    table = (ROOT / "README.md").read_text().partition(f"<!-- settings -->\n\n{SETTINGS_HEAD}")[2]
    assert table.startswith(settings_table() + "\n"), f"put this there:\n{settings_table()}"


def test_architecture_maps_every_package():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = ("client/polyhead", "server/polyhead_server", "models/polyhead_models")
    for package in (*packages, "explorer/polyhead_explorer"):
        for folder in (ROOT / package).rglob("__init__.py"):
            path = folder.parent.relative_to(ROOT / package)
            assert f"{path.name}/" in text, f"{package}/{path} is not on the map"


def test_the_site_describes_every_public_name():
    page = (ROOT / "website/pages/reference/client.md").read_text()
    described = set(re.findall(r"^::: polyhead\.(\w+)$", page, re.MULTILINE))
    assert {"errors", "viz"} <= described
    assert described - {"errors", "viz"} == set(polyhead.__all__) - set(errors) - {"__version__"}
