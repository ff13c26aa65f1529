"""Descriptions of models and of the server: each field has the value of its name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from polyhead.v1 import attention_pb2 as pb
from polyhead_models.blocks import Provenance
from polyhead_models.config import AttentionConfig
from polyhead_models.rotary import Rotary
from polyhead_server.engine.model import Model
from polyhead_server.repository.repository import UnavailableModel
from polyhead_server.services.attention.describe import describe_model, describe_server
from polyhead_server.settings import ServerSettings

EVERYTHING = AttentionConfig(
    embed_dim=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    v_head_dim=12,
    kdim=24,
    vdim=20,
    is_causal=True,
    sliding_window=7,
    scale=0.5,
    softcap=30.0,
    rotary=Rotary(
        dim=8,
        theta=500000.0,
        is_interleaved=True,
        scaling="longrope",
        factor=8.0,
        original_max_positions=64,
        short_factors=(1.0,) * 4,
        long_factors=(2.0,) * 4,
    ),
    has_alibi=True,
    relative_buckets=8,
    relative_max_distance=20,
    has_sinks=True,
    qk_norm_eps=1e-6,
    precision="float16",
)
PROVENANCE = Provenance(
    source="checkpoint x",
    family="llama",
    layer="layers.0",
    weights_sha256="ab",
    exporter="polyhead 1",
    precision_error=0.001,
)


@pytest.fixture
def described():
    """The description of a model that has every feature. Its graph is not built."""
    model = object.__new__(Model)
    vars(model).update(
        name="m", version=2, providers=["X", "Y"], config=EVERYTHING, provenance=PROVENANCE
    )
    return describe_model(model)


def assert_complete(message, values):
    """Check that every field is set to the value of its name."""
    for field in message.DESCRIPTOR.fields:
        value, wanted = getattr(message, field.name), getattr(values, field.name)
        if field.message_type is not None:
            assert message.HasField(field.name), field.name
            assert_complete(value, wanted)
        else:
            value = tuple(value) if isinstance(wanted, tuple) else value
            assert value == wanted, field.name
            assert value, f"{field.name} is 0 here: the example is not complete"


def test_every_field_of_a_model_is_set(described):
    assert_complete(described.spec, EVERYTHING)
    assert_complete(described.provenance, PROVENANCE)
    assert (described.name, described.version) == ("m", 2)
    assert described.state == pb.MODEL_STATE_READY
    assert described.providers == ["X", "Y"]


def test_features_that_a_model_does_not_have_are_not_set(models):
    spec = describe_model(models["plain"]).spec
    assert not spec.HasField("rotary")
    assert (spec.softcap, spec.sliding_window, spec.precision) == (0, 0, "float32")
    assert describe_model(models["rotary"]).spec.rotary.dim == 4
    sdpa = describe_model(models["sdpa"]).spec
    assert (sdpa.has_in_proj, sdpa.num_kv_heads, sdpa.v_head_dim) == (False, 2, 6)


def test_a_model_that_could_not_be_loaded_has_a_reason_and_no_spec():
    described = describe_model(UnavailableModel("bad", 1, "why"))
    assert described.state == pb.MODEL_STATE_UNAVAILABLE
    assert described.state_reason == "why"
    assert not described.HasField("spec")


def test_every_limit_of_a_server_is_set():
    settings = ServerSettings()
    described = describe_server([SimpleNamespace(providers=["X"])], settings)
    assert_complete(described.limits, settings)
    assert described.providers == ["X"]
    assert described.version
    assert described.onnxruntime_version
