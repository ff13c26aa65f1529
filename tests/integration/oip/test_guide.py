"""docs/open-inference-protocol.md: its examples run against a server."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
from minilm import MINILM, needs_minilm
from tritonclient_requests import stock

from polyhead_models import builtin
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

GUIDE = (Path(__file__).parents[3] / "docs" / "open-inference-protocol.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def run(code, served, names):
    """Run an example against a server, with the names that those before it have set."""
    code = code.replace("localhost:50051", served.target)
    with warnings.catch_warnings():  # its stubs are made for the protobuf before
        warnings.simplefilter("ignore")
        exec(compile(code, "open-inference-protocol.md", "exec"), names)


def test_the_examples_of_a_block_run(capsys):
    assert len(BLOCKS) == 4
    with running_server(builtin.repository(), threads=1) as served:
        names = {}
        run("\n".join(BLOCKS[:2]), served, names)
        assert isinstance(names["client"], stock.InferenceServerClient)
        names["client"].close()
    assert capsys.readouterr().out == "(1, 10, 6)\n(1, 1, 10, 10)\n0\n1\n2\n"


@needs_minilm
def test_the_examples_of_a_whole_model_run(capsys, tmp_path):
    export_whole_model(Checkpoint.open(MINILM), "minilm", tmp_path)
    with (
        running_server(tmp_path, threads=1) as served,
        stock.InferenceServerClient(served.target) as client,
    ):
        run("\n".join(BLOCKS[2:]), served, {"client": client, "np": np, "triton": stock})
    assert capsys.readouterr().out == "b'river'\n(1, 4, 384)\n"
