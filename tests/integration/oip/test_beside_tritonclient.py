"""tritonclient registers the protocol's names in protobuf's own pool; ours are elsewhere."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

OURS = "import polyhead, polyhead_server.process.app"
THEIRS = "import tritonclient.grpc, tritonclient.grpc.aio"
USE = """
from tritonclient.grpc import service_pb2
from polyhead_server.inference import grpc_inference_pb2
theirs = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"x"])
ours = grpc_inference_pb2.ModelInferRequest.FromString(theirs.SerializeToString())
assert ours.model_name == "m"
assert ours.SerializeToString() == theirs.SerializeToString()
"""


@pytest.mark.parametrize(
    "order", [*itertools.permutations((OURS, THEIRS))], ids=["ours first", "theirs first"]
)
def test_both_are_imported_in_one_process(order):
    code = "import warnings; warnings.simplefilter('ignore')\n" + "\n".join(order) + USE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_messages_have_the_fields_and_numbers_of_theirs():
    """As far as ours have them; every field of ours is one of theirs."""
    code = """
import warnings; warnings.simplefilter('ignore')
from tritonclient.grpc import model_config_pb2, service_pb2
from polyhead_server.inference import grpc_inference_pb2
def compare(ours, theirs):
    for field in ours.fields:
        if field.name == "properties":  # of the standard, and not of Triton
            continue
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type) == (other.number, other.type), field.full_name
    for nested in ours.nested_types:
        if nested.name == "PropertiesEntry":
            continue
        compare(nested, theirs.nested_types_by_name[nested.name])
for name, message in grpc_inference_pb2.DESCRIPTOR.message_types_by_name.items():
    theirs = {**model_config_pb2.DESCRIPTOR.message_types_by_name,
              **service_pb2.DESCRIPTOR.message_types_by_name}
    compare(message, theirs[name])
for name, value in grpc_inference_pb2.DataType.items():
    assert model_config_pb2.DataType.Value(name) == value
service = grpc_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
their_service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
for method in service.methods:
    other = their_service.methods_by_name[method.name]
    assert method.input_type.name == other.input_type.name
    assert method.output_type.name == other.output_type.name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
