"""docs/recipes.md: its examples run, on recorded checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from golden import GOLDEN

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

GUIDE = Path(__file__).parents[3] / "docs" / "recipes.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names that the examples leave, run one after the other."""
    repository = tmp_path_factory.mktemp("recipes")
    for name, family in (("whisper", "whisper"), ("esm2", "esm")):
        export_whole_model(Checkpoint.open(GOLDEN / family), name, repository)
    with running_server(repository, threads=1) as server:
        code = "\n".join(re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL))
        found = {}
        exec(compile(code.replace("localhost:50051", server.target), GUIDE.name, "exec"), found)
        found["client"].close()
    return found


def test_every_token_has_a_time_and_later_ones_do_not_begin_earlier(names):
    starts = names["starts"]
    assert [*starts] == [*range(6)]
    assert [*starts.values()] == sorted(starts.values())
    assert starts[0] == 0
    assert names["weights"].shape == (2, 6, 10)


def test_the_path_follows_the_weights(names):
    gain = np.zeros((3, 6))
    gain[0, :2] = gain[1, 2:5] = gain[2, 5] = 1
    path = names["path_through"](gain)
    assert path == [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4), (2, 5)]


def test_contacts_are_symmetric_and_corrected(names):
    contacts = names["contacts"]
    assert contacts.shape == (18, 18)
    np.testing.assert_allclose(contacts, contacts.T, atol=1e-6)
    np.testing.assert_allclose(contacts.sum(0), 0, atol=1e-5)
