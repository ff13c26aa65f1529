"""The public names are those listed here, and importing them is fast."""

from __future__ import annotations

import subprocess
import sys

import pytest

import polyhead

SURFACE = [
    "AsyncClient",
    "AsyncRowStream",
    "AttentionResult",
    "AttentionRows",
    "AttentionSpec",
    "AuthenticationError",
    "Client",
    "ClientClosedError",
    "DeadlineExceededError",
    "Execution",
    "ExplorerPage",
    "ForwardResult",
    "HeadVectors",
    "InvalidArgumentError",
    "LayerSpec",
    "MissingExtraError",
    "ModelChange",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelUnavailableError",
    "PolyheadError",
    "Provenance",
    "RequestCancelledError",
    "ResourceExhaustedError",
    "RotarySpec",
    "RowStream",
    "ServerError",
    "ServerInfo",
    "ServerLimits",
    "ServerUnavailableError",
    "StackSpec",
    "TLSConfig",
    "UnsupportedOperationError",
    "Vectors",
    "Weights",
    "WholeModelSpec",
    "__version__",
]


def test_the_public_surface():
    assert polyhead.__all__ == SURFACE
    assert sorted(polyhead.__all__) == polyhead.__all__
    for name in SURFACE:
        assert getattr(polyhead, name) is not None
        assert name in dir(polyhead)


def test_other_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        polyhead.Klient  # noqa: B018 - the access is what is tested


LOAD_ALL_COMMANDS = (  # as `polyhead --help` does
    "from importlib.metadata import entry_points; "
    "[command.load() for command in entry_points(group='polyhead.commands')]"
)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import polyhead.cli", "numpy grpc onnxruntime onnx rich matplotlib"),
        (
            "import polyhead; polyhead.Client; polyhead.AsyncClient",
            "onnxruntime onnx rich matplotlib",
        ),
        ("import polyhead.wire.tensors", "grpc"),
        # all that `polyhead health` needs, which probes run every few seconds
        (
            "import polyhead._client.methods, polyhead.cli.servers.health",
            "numpy google.protobuf",
        ),
        ("import polyhead._client.channel", "numpy google.protobuf"),
        ("import polyhead.viz", "rich matplotlib"),
        (
            LOAD_ALL_COMMANDS,
            "numpy grpc onnxruntime onnx rich matplotlib starlette uvicorn",
        ),
    ],
)
def test_imports_bring_no_more_than_they_need(statement, unwanted):
    code = f"import sys; {statement}; print(*sys.modules.keys() & set({unwanted.split()}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
