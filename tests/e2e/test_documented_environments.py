"""Each documented command, in an environment with just the extras that are named beside it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from documented import ROOT, blocks, needed
from environments import build, make_environment
from minilm import MINILM, needs_minilm

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.export import export_block
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.documents, needs_minilm]
PATIENCE_S = 120
LACKS = re.compile(r"Traceback|is not installed|pip install 'polyhead|is not part of this")
FILES = ("whisper-tiny", "llama", "mha.safetensors", "server.pem", "server.key", "ca.pem")
"""Files of the documents that are not here; commands that need them say so."""
SUCCEED = ("attend", "demo", "explore", "export", "forward", "inspect", "models", "serve", "token")
"""Other commands need a server of their own, or measure."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return a function that makes an environment with some extras, once."""
    wheel = build(tmp_path_factory.mktemp("wheel"), ROOT, "--wheel")
    made: dict[frozenset[str], Path] = {}

    def make(extras):
        if extras not in made:
            made[extras] = make_environment(tmp_path_factory.mktemp("environment"), wheel, extras)
        return made[extras]

    return make


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The models that the documents call: a whole one, and blocks."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = Checkpoint.open(MINILM)
    export_whole_model(checkpoint, "minilm", folder)
    block = checkpoint.load(checkpoint.locations()[0], 0)
    for name in ("bert", "river-bank"):
        export_block(block, name, folder)
    return folder


@pytest.fixture(scope="module")
def server(repository):
    """Serves them."""
    with running_server(repository, threads=1, model_control="reload") as running:
        yield running


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.place)
def test_a_block_lacks_no_package(block, environment, server, repository, tmp_path):
    shutil.copytree(repository, tmp_path / "models")
    shutil.copytree(MINILM, tmp_path / "all-MiniLM-L6-v2")
    np.save(tmp_path / "query.npy", np.ones((1, 3, 384), np.float32))
    np.savez(tmp_path / "query.npz", query=np.ones((1, 3, 384), np.float32))
    # completion is for no command, and the others are not here
    binaries = environment(block.extras - {"completion", "gpu", "remote"})
    for command in block.commands:
        if "remote" in needed(command):
            continue
        status, output = run(binaries, command, server, tmp_path)
        assert not LACKS.search(output), f"{' '.join(command)}:\n{output}"
        if command[1] in SUCCEED and not any(file in output for file in FILES):
            assert status == 0 or "cuda" in command, f"{' '.join(command)}:\n{output}"


def run(binaries, command, server, folder):
    """Run a command until it ends, or a server until it serves; return status and output."""
    words = [word.replace("host:50051", server.target) for word in command if word != "--tls"]
    if words[1] == "explore":
        words += ["--port", "0"]
    if words[1] == "bench":
        words = ["0.01ms" if word == "50ms" else word for word in words]  # a short search
        words += ["--duration", "0.2", "--warmup", "0.1"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "POLYHEAD"))}
    output = ""
    with subprocess.Popen(
        [binaries / "polyhead", *words[1:]],
        env=clean | {"POLYHEAD_SERVER": server.target, "POLYHEAD_PORT": "0"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            if words[1] in ("explore", "serve"):
                for line in process.stdout:
                    output += line
                    if '"serving"' in line or line.startswith("explore "):
                        process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    return process.returncode, output + rest
