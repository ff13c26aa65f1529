"""docs/whole-models.md and docs/head-vectors.md: their examples run, and so does the README's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from minilm import MINILM, needs_minilm

from polyhead import Weights
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

ROOT = Path(__file__).parents[3]
pytestmark = needs_minilm


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    repository = tmp_path_factory.mktemp("whole")
    export_whole_model(Checkpoint.open(MINILM), "minilm", repository)
    with running_server(repository, threads=1) as server:
        yield server.target


def examples(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_guides_examples_run(target, tmp_path, monkeypatch):
    blocks = examples((ROOT / "docs" / "whole-models.md").read_text())
    ours = [block for block in blocks if "bertviz import" not in block]
    assert len(blocks) - 1 == len(ours) > 5
    monkeypatch.chdir(tmp_path)
    names = {}
    code = "\n".join(ours).replace("localhost:50051", target)
    exec(compile(code, "whole-models.md", "exec"), names)
    names["client"].close()
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    for weights in names["term_weights"]:
        assert sum(weights.values()) == pytest.approx(1, abs=0.3)  # a token may occur twice
    assert names["weights"].shape == (1, 12, 12, 12)
    resemblance = names["resemblance"]
    assert [*resemblance] == [*range(6)]
    assert resemblance[0] == pytest.approx(0.82, abs=0.01)  # as the guide says
    assert resemblance[1] == pytest.approx(0.91, abs=0.01)


def test_the_examples_of_head_vectors_run(target):
    text = (ROOT / "docs" / "head-vectors.md").read_text()
    names = {}
    code = "\n".join(examples(text)).replace("localhost:50051", target)
    exec(compile(code, "head-vectors.md", "exec"), names)
    wanted = {2: Weights(stage="scores")}
    result = names["client"].forward(names["text"], model="minilm", need_weights=wanted)
    names["client"].close()
    np.testing.assert_allclose(names["scores"], result.attn_weights[2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(names["context"], names["vectors"].context, rtol=0, atol=1e-6)
    assert names["z"].shape == (1, 12, 12, 32)


def test_the_readmes_example_runs(target):
    text = (ROOT / "README.md").read_text().partition("### Whole models\n")[2]
    names = {}
    code = "import polyhead\n" + examples(text)[0].replace("localhost:50051", target)
    exec(compile(code, "README.md", "exec"), names)
    result = names["r"]
    assert result.tokens[0][-3:] == ["bank", ".", "[SEP]"]
    assert result.attn_weights[5].shape == (1, 12, 12, 12)
    assert result.hidden_states[6].shape == (1, 12, 384)
