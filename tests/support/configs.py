"""Attention blocks of every kind, and calls of them, as hypothesis draws them.

All is small, and numbers are of order 1, so that float32 and float64 can be compared.
"""

import numpy as np
from hypothesis import strategies as st

from polyhead_models.blocks import make_block
from polyhead_models.config import AttentionConfig
from polyhead_models.rotary import SCALINGS, Rotary

HEAD_DIMS = [4, 8, 12, 16]
MAX_SEQ_LEN = 9
MASKS = ["bool", "float", "lowest"]
"""Kinds of masks; "lowest" forbids by the lowest float32 in place of minus infinity."""


@st.composite
def rotaries(draw, head_dim, scalings=(*SCALINGS, "given")):
    """A rotary embedding for such heads, full or partial."""
    dim = 2 * draw(st.integers(1, head_dim // 2)) if draw(st.booleans()) else head_dim
    scaling = draw(st.sampled_from([s for s in scalings if dim > 2 or s != "dynamic"]))
    values = {"none": {}, "linear": {"factor": 3.0}}.get(scaling)
    if scaling == "given":
        numbers = st.floats(0.015625, 1.0, width=32)
        frequencies = draw(st.lists(numbers, min_size=dim // 2, max_size=dim // 2))
        scaling, values = "none", {"frequencies": tuple(frequencies)}
    if values is None:
        # so few that a test's sequences lie on both sides
        values = {"factor": 4.0, "original_max_positions": draw(st.integers(2, 8))}
    if scaling == "longrope":
        factors = st.lists(st.floats(1.0, 9.0, width=32), min_size=dim // 2, max_size=dim // 2)
        values |= {"short_factors": tuple(draw(factors)), "long_factors": tuple(draw(factors))}
    return Rotary(
        dim=dim,
        theta=draw(st.sampled_from([10000.0, 100.0])),
        is_interleaved=draw(st.booleans()),
        scaling=scaling,
        **values,
    )


@st.composite
def attention_configs(draw, **fixed):
    """Mixed combinations of all variants; ``fixed`` are fields that are not to be drawn."""

    def choose(name, strategy):
        return fixed[name] if name in fixed else draw(strategy)

    head_dim = choose("head_dim", st.sampled_from(HEAD_DIMS))
    v_head_dim = choose("v_head_dim", st.sampled_from([head_dim, head_dim, *HEAD_DIMS]))
    num_heads = choose("num_heads", st.integers(1, 4))
    divisors = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
    num_kv_heads = choose("num_kv_heads", st.sampled_from(divisors))
    is_causal = choose("is_causal", st.booleans())
    has_in_proj = choose("has_in_proj", st.sampled_from([True, True, True, False]))

    values = {"has_out_proj": False, "embed_dim": num_heads * head_dim}
    if has_in_proj:
        widths = st.sampled_from([8, 12, 16])
        values["embed_dim"] = choose("embed_dim", widths)
        if draw(st.booleans()):  # for cross-attention between sequences of different widths
            values |= {"kdim": draw(widths), "vdim": draw(widths)}
        values["has_out_proj"] = draw(st.booleans())
    relative_buckets = choose("relative_buckets", st.sampled_from([0, 0, 4, 8, 32]))
    if relative_buckets:
        num_exact = relative_buckets // (2 if is_causal else 4)
        values["relative_max_distance"] = num_exact + draw(st.integers(1, 12))
    values |= {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "v_head_dim": v_head_dim,
        "is_causal": is_causal,
        "has_in_proj": has_in_proj,
        "relative_buckets": relative_buckets,
        "sliding_window": draw(st.sampled_from([0, 0, 1, 2, 4])),
        "scale": draw(st.sampled_from([0.0, 0.0, 1.0, 0.05])),
        "softcap": draw(st.sampled_from([0.0, 0.0, 1.5, 30.0])),
        "rotary": choose("rotary", st.none() | rotaries(head_dim)),
        "has_alibi": draw(st.sampled_from([False, False, True])),
        "has_sinks": draw(st.booleans()),
        "qk_norm_eps": draw(st.sampled_from([0.0, 0.0, 1e-6, 0.1])),
    }
    return AttentionConfig(**(values | fixed))


def block_of(config, seed):
    """A block with random weights, and with biases on some of its projections."""
    rng = np.random.default_rng(seed)

    def number(shape, spread):
        return (spread * rng.standard_normal(shape)).astype(np.float32)

    weights = {}
    for name, shape in config.weight_shapes().items():
        if name.endswith("_norm.weight"):
            weights[name] = 1 + number(shape, 0.3)
        elif name.endswith("_proj.weight"):
            weights[name] = number(shape, shape[1] ** -0.5)
        else:
            weights[name] = number(shape, 1.0)
    weights |= {
        name: number(shape, 0.5)
        for name, shape in config.bias_shapes().items()
        if rng.random() < 0.5
    }
    return make_block(config, weights, source=f"random seed {seed}")


def takes_itself(config):
    """Whether the block's queries can be its keys and values: self-attention without a key."""
    return config.embed_dim == config.kdim == config.vdim


def arguments_of(
    config,
    seed,
    *,
    batch_size=2,
    q_seq_len=5,
    kv_seq_len=5,
    is_self=False,
    mask="",
    has_lengths=False,
    has_positions=False,
):
    """Random arguments of one call, by name: float32 arrays, and what else is asked for.

    ``is_self``: without key and value; kv_seq_len is then q_seq_len. ``mask``: one of MASKS, or "".
    """
    rng = np.random.default_rng(seed)
    if is_self:
        kv_seq_len = q_seq_len

    def embeddings(seq_len, width):
        return rng.standard_normal((batch_size, seq_len, width)).astype(np.float32)

    arguments = {"query": embeddings(q_seq_len, config.embed_dim)}
    if not is_self:
        arguments["key"] = embeddings(kv_seq_len, config.kdim)
        arguments["value"] = embeddings(kv_seq_len, config.vdim)
    if mask:
        arguments["attn_mask"] = random_mask(
            rng, (batch_size, config.num_heads, q_seq_len, kv_seq_len), mask
        )
    if has_lengths:
        arguments["kv_lengths"] = rng.integers(0, kv_seq_len + 1, size=batch_size)
    if has_positions and config.rotary is not None:
        starts = rng.integers(0, 20, size=(batch_size, 1))
        arguments["positions"] = np.sort(rng.integers(0, 20, (batch_size, q_seq_len))) + starts
        if not is_self and rng.random() < 0.7:
            arguments["key_positions"] = rng.integers(0, 40, size=kv_seq_len)
    return arguments


def random_mask(rng, full_shape, kind):
    """A mask that broadcasts to (batch_size, num_heads, q_seq_len, kv_seq_len)."""
    shape = [n if rng.random() < 0.7 else 1 for n in full_shape][rng.integers(4) :]
    may_attend = rng.random(shape) < rng.choice([0.0, 0.5, 0.9, 1.0])
    if kind == "bool":
        return may_attend
    forbidden = -np.inf if kind == "float" else np.finfo(np.float32).min
    return np.where(may_attend, rng.standard_normal(shape), forbidden).astype(np.float32)


@st.composite
def attention_calls(draw, configs=None, masks=("", *MASKS)):
    """A block, and the arguments of a call of it by name."""
    config = draw(attention_configs() if configs is None else configs)
    lengths = st.integers(1, MAX_SEQ_LEN)
    arguments = arguments_of(
        config,
        draw(st.integers(0, 99)),
        batch_size=draw(st.integers(1, 3)),
        q_seq_len=draw(lengths),
        kv_seq_len=draw(lengths),
        is_self=takes_itself(config) and draw(st.booleans()),
        mask=draw(st.sampled_from(masks)),
        has_lengths=draw(st.booleans()),
        has_positions=draw(st.booleans()),
    )
    return block_of(config, draw(st.integers(0, 99))), arguments
