"""Whatever a model's metadata say, the model is loaded or refused for a reason.

`METADATA_MUTATIONS=100000 pytest tests/unit/server/repository/test_metadata.py` is the long run.
"""

from __future__ import annotations

import json
import os
import random
from types import SimpleNamespace

import pytest
from golden import GOLDEN
from odd_metadata import mutated

from polyhead_models.blocks import PROVENANCE_KEY
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.config import CONFIG_KEY
from polyhead_models.export.whole import export_whole_model
from polyhead_models.whole_config import WHOLE_KEY
from polyhead_server.errors import ModelFileError
from polyhead_server.repository.model_check import check_model
from polyhead_server.repository.whole_check import check_whole_model

resource = pytest.importorskip("resource")  # Windows has none

NUM_MUTATIONS = int(os.environ.get("METADATA_MUTATIONS", "100"))
MAX_GROWN_KB = 100 << 10
"""Most memory that all checks together may add to the process's peak."""


class OtherMetadata:
    """A session with other metadata."""

    def __init__(self, session, metadata):
        self._session = session
        self._metadata = metadata

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map=self._metadata)

    def __getattr__(self, name):
        return getattr(self._session, name)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory, engine, onnx_bytes):
    """Return a function that opens one of a few models: its session, and its files' size."""
    folder = tmp_path_factory.mktemp("models")
    opened = {}

    def open_session(name):
        if name not in opened:
            if name in onnx_bytes:
                (folder / name).mkdir()
                (folder / name / "model.onnx").write_bytes(onnx_bytes[name])
                version = folder / name
            else:
                version = export_whole_model(Checkpoint.open(GOLDEN / name), name, folder).folder
            size = sum(file.stat().st_size for file in version.iterdir())
            opened[name] = engine.open_session(version / "model.onnx"), size
        return opened[name]

    return open_session


@pytest.mark.parametrize("name", ["bert", "t5", "vit", "plain", "rotary"])
def test_mutated_metadata(sessions, engine, tmp_path, name):
    session, size = sessions(name)
    check = check_model if name in {"plain", "rotary"} else check_whole_model

    def refusal(changed):
        """Return why a model is refused; empty: it is not."""
        try:
            check(engine.model_of("m", 1, OtherMetadata(session, changed), tmp_path), size, 60.0)
        except ModelFileError as error:
            return str(error)
        return ""

    metadata = session.get_modelmeta().custom_metadata_map
    keys = [key for key in (WHOLE_KEY, CONFIG_KEY, PROVENANCE_KEY) if key in metadata]
    numbers = random.Random(name)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reasons = []
    for _ in range(NUM_MUTATIONS):
        key = numbers.choice([keys[0], keys[0], keys[0], keys[1]])
        reasons.append(refusal(metadata | {key: mutated(metadata[key], numbers)}))
    assert sum(map(bool, reasons)) > NUM_MUTATIONS / 2
    assert max(map(len, reasons)) < 200
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kb
    assert grown_kb < MAX_GROWN_KB


def test_metadata_as_they_are(sessions, engine, tmp_path):
    session, size = sessions("bert")
    check_whole_model(engine.model_of("m", 1, session, tmp_path), size, 60.0)


def test_more_token_types_than_the_graph_has_are_refused(sessions, engine, tmp_path):
    session, size = sessions("bert")
    metadata = session.get_modelmeta().custom_metadata_map
    whole = json.loads(metadata[WHOLE_KEY])
    assert whole["stacks"][0]["num_types"] == 2
    whole["stacks"][0]["num_types"] = 3
    changed = metadata | {WHOLE_KEY: json.dumps(whole)}
    model = engine.model_of("m", 1, OtherMetadata(session, changed), tmp_path)
    with pytest.raises(ModelFileError):
        check_whole_model(model, size, 60.0)
