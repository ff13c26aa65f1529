"""What the documents say of the code is so."""

from __future__ import annotations

import argparse
from pathlib import Path

from polyhead_server.settings import ServerSettings

ROOT = Path(__file__).parents[2]


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
    table = (ROOT / "README.md").read_text().partition("<!-- settings -->\n")[2]
    assert table.startswith(settings_table() + "\n"), f"put this there:\n{settings_table()}"


def test_architecture_maps_every_module():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = ["client/polyhead", "server/polyhead_server", "models/polyhead_models"]
    for package in packages:
        for path in (ROOT / package).glob("*.py"):
            if path.name not in ("__init__.py", "__main__.py"):
                assert path.name in text, f"{path.relative_to(ROOT)} is not on the map"
