"""The text beside each documented command names the extras that the command needs."""

from __future__ import annotations

import pytest
from documented import blocks, needed

BLOCKS = blocks()


def test_commands_are_found():
    commands = [command for block in BLOCKS for command in block.commands]
    assert len(commands) > 30
    assert {"attend", "demo", "export", "forward", "serve"} <= {c[1] for c in commands}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_the_section_of_a_command_names_its_extras(block):
    for command in block.commands:
        missing = needed(command) - block.extras
        assert not missing, f"{block.place}: {' '.join(command)} needs {', '.join(missing)}"
