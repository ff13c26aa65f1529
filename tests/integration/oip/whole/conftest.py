"""A server of whole models, with tritonclient and with polyhead's own stubs."""

from __future__ import annotations

import shutil

import grpc
import pytest
from golden import GOLDEN
from minilm import MINILM
from tritonclient_requests import stock
from whole_infer import RECORDED, tokenizer_json

from polyhead.v1 import attention_pb2_grpc
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """Every recorded whole model, BERT and T5 with a tokenizer, and MiniLM if it is installed."""
    folder = tmp_path_factory.mktemp("whole")
    for family in RECORDED:
        export_whole_model(Checkpoint.open(GOLDEN / family), family, folder)
    for family, name in (("bert", "texts"), ("t5", "t5-texts")):
        with_texts = shutil.copytree(GOLDEN / family, tmp_path_factory.mktemp("tokens") / family)
        (with_texts / "tokenizer.json").write_text(tokenizer_json())
        export_whole_model(Checkpoint.open(with_texts), name, folder)
    if MINILM:
        export_whole_model(Checkpoint.open(MINILM), "minilm", folder)
    return folder


@pytest.fixture(scope="session")
def served(repository):
    with running_server(repository, threads=1) as server:
        yield server


@pytest.fixture(scope="session")
def triton(served):
    with stock.InferenceServerClient(served.target) as client:
        yield client


@pytest.fixture(scope="session")
def forward(served):
    """AttentionService.Forward."""
    with grpc.insecure_channel(served.target) as channel:
        yield attention_pb2_grpc.AttentionServiceStub(channel).Forward
