"""The second graph of small blocks computes what the first one does."""

from base64 import b64decode

import numpy as np
import onnx
import pytest
from configs import attention_configs, block_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions import loaded

from polyhead_models.config import COMPACT_KEY, AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend_stages
from polyhead_models.rotary import Rotary

PLAIN = dict.fromkeys(
    ("relative_buckets", "sliding_window", "softcap", "has_alibi", "has_sinks", "qk_norm_eps"), 0
)
SMALL = {"embed_dim": 16, "num_heads": 2}


def sessions_of(block):
    """The graph's session, and that of the compact one, if there is one."""
    graph = loaded(build_model(block))
    compact = graph.get_modelmeta().custom_metadata_map.get(COMPACT_KEY)
    return graph, compact and loaded(b64decode(compact))


@settings(max_examples=150)
@given(data=st.data())
def test_it_agrees_with_the_graph_and_the_reference(data):
    width = data.draw(st.sampled_from([4, 6, 16, 24]))
    fixed = {"embed_dim": width, "kdim": width, "vdim": width, "rotary": None, "has_in_proj": True}
    config = data.draw(attention_configs(**PLAIN, **fixed))
    block = block_of(config, data.draw(st.integers(0, 99)))
    graph, compact = sessions_of(block)
    shape = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 70)), width)
    query = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    given = compact.run(["output", "attn_weights"], {"query": query})

    (alone,) = compact.run(["output"], {"query": query})
    np.testing.assert_array_equal(alone, given[0])
    feeds = dict.fromkeys(("query", "key", "value"), query) | {"need_weights": np.array(True)}
    wanted = graph.run(["output", "attn_weights"], feeds)
    stages = attend_stages(block, query)
    for own, other, exact in zip(given, wanted, (stages.output, stages.attn_weights), strict=True):
        scale = np.abs(exact).max(initial=1.0)
        np.testing.assert_allclose(own, other, rtol=0, atol=2e-6 * scale)
        np.testing.assert_allclose(own, exact, rtol=0, atol=1e-5 * scale)


def test_it_is_whole_and_checked():
    metadata = {
        entry.key: entry.value
        for entry in onnx.load_from_string(
            build_model(random_block(AttentionConfig(**SMALL), seed=1))
        ).metadata_props
    }
    model = onnx.load_from_string(b64decode(metadata[COMPACT_KEY]))
    (query,) = model.graph.input
    assert not query.type.tensor_type.HasField("shape")  # model.py says why
    query.type.tensor_type.shape.CopyFrom(shape_of("batch_size", "seq_len", SMALL["embed_dim"]))
    onnx.checker.check_model(model, full_check=True)


def shape_of(*dims):
    return onnx.helper.make_tensor_type_proto(1, dims).tensor_type.shape


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float16"},
        {"precision": "int8"},
        {"embed_dim": 264, "num_heads": 4},
        {"kdim": 8},
        {"vdim": 8},
        {"rotary": Rotary(dim=4)},
        {"softcap": 2.0},
        {"has_sinks": True},
        {"has_alibi": True},
        {"sliding_window": 2},
        {"relative_buckets": 8, "relative_max_distance": 6},
        {"qk_norm_eps": 1e-6},
        {"has_in_proj": False, "has_out_proj": False},
    ],
    ids=str,
)
def test_these_have_none(options):
    _, compact = sessions_of(random_block(AttentionConfig(**(SMALL | options)), seed=1))
    assert compact is None
