"""The explorer in front of a real server, with tiny whole models of several kinds."""

from __future__ import annotations

import pytest
from browser import started_browser
from changed_checkpoint import changed
from explorer_page import explorer
from golden import GOLDEN
from older_exports import without_vectors
from tiny_checkpoint import tiny_checkpoint, words_of

import polyhead
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.river_bank import river_bank_block
from polyhead_models.store import write_model
from polyhead_server.running import running_server

SENTENCES = [
    "Tom is going to fish at the river bank.",
    "Tom is going to the bank to deposit money.",
]
FAMILIES = ("bert", "gpt2", "bart", "t5", "whisper", "clip")
VISION_FAMILIES = ("vit", "deit", "dinov2_with_registers")


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored")
    for family in FAMILIES:
        checkpoint = tiny_checkpoint(folder / "checkpoints", family, words_of(SENTENCES))
        export_whole_model(Checkpoint.open(checkpoint), family, folder / "models")
    for family in VISION_FAMILIES:
        export_whole_model(Checkpoint.open(GOLDEN / family), family, folder / "models")
    alone = changed(folder, "bart", without_encoder)
    export_whole_model(Checkpoint.open(alone), "decoder-alone", folder / "models")
    block = river_bank_block()
    write_model(folder / "models", "river-bank", build_model(block))
    write_model(folder / "models", "old", without_vectors(build_model(block)))
    write_model(folder / "models", "block", build_model(random_block(block.config, seed=1)))
    return folder / "models"


def without_encoder(tensors):
    return {name: each for name, each in tensors.items() if not name.startswith("encoder.")}


@pytest.fixture(scope="session")
def server(repository):
    with running_server(repository, threads=1) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    with polyhead.Client(server.target) as connected:
        yield connected


@pytest.fixture(scope="session")
def page(server):
    with explorer(server.target) as served:
        yield served


@pytest.fixture(scope="module")  # not longer, because its event loop runs in this thread
def browser():
    with started_browser() as started:
        yield started
