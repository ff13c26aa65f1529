"""What a deployment says of itself: models, limits, health, and the contracts of its services."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tests.contract import models

import polyhead
from polyhead.v1 import attention_pb2 as pb

TIMEOUT_S = 30
SERVICES = {"polyhead.v1.AttentionService", "inference.GRPCInferenceService"}


def test_models_are_listed_in_order(stub):
    listed = stub.ListModels(pb.ListModelsRequest(), timeout=TIMEOUT_S).models
    names = [(model.name, model.version) for model in listed]
    assert names == sorted(names)
    assert {(name, 1) for name in models.CONFIGURATIONS} <= set(names)
    assert all(model.state == pb.MODEL_STATE_READY for model in listed)


@pytest.mark.parametrize("name", models.CONFIGURATIONS)
def test_a_block_is_described(stub, name):
    config = models.CONFIGURATIONS[name]
    model = stub.GetModel(pb.GetModelRequest(name=name), timeout=TIMEOUT_S).model
    spec = model.spec
    assert (spec.embed_dim, spec.num_heads, spec.kdim, spec.vdim, spec.is_causal) == (
        config.embed_dim,
        config.num_heads,
        config.kdim,
        config.vdim,
        config.is_causal,
    )
    assert model.version == 1
    assert model.provenance.weights_sha256


def test_a_whole_model_is_described(stub):
    request = pb.GetModelRequest(name="contract-bert", version=1)
    whole = stub.GetModel(request, timeout=TIMEOUT_S).model.whole
    assert [stack.input for stack in whole.stacks] == ["token_ids"]
    assert len(whole.stacks[0].layers) >= len(models.bert_blocks())


def test_the_server_is_described(stub):
    info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=TIMEOUT_S)
    assert info.version.split(".")[0] == polyhead.__version__.split(".")[0]
    assert info.limits.max_request_bytes >= 1024


def test_the_clients_read_the_descriptions(client):
    assert client.is_ready()
    assert client.model("contract-plain").spec.embed_dim == 16
    assert client.server_info().version


@pytest.mark.parametrize("service", ["", *sorted(SERVICES)])
def test_health(channel, service):
    asked = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=TIMEOUT_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_no_service(channel):
    asked = health_pb2.HealthCheckRequest(service="no.such.Service")
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(asked, timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.requires("watches health")
def test_health_is_watched(channel):
    asked = health_pb2.HealthCheckRequest(service="polyhead.v1.AttentionService")
    watch = health_pb2_grpc.HealthStub(channel).Watch(asked, timeout=TIMEOUT_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) >= SERVICES
    file = database.FindFileContainingSymbol("polyhead.v1.AttentionService")
    assert file.name == "polyhead/v1/attention.proto"
    methods = {method.name for method in file.service[0].method}
    assert {"Attend", "AttendRows", "AttendStream", "Forward", "ListModels"} <= methods
    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    assert file.service[0].name == "GRPCInferenceService"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_versions_of_reflection(channel, version):
    name = f"grpc.reflection.{version}.ServerReflection"
    call = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
    ]
    services, file = call(iter(asked), timeout=TIMEOUT_S)
    assert name in {service.name for service in services.list_services_response.service}
    [contract] = file.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(contract).package == f"grpc.reflection.{version}"
