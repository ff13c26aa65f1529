"""Recomputes make_golden.py's recordings in float64, without code of the project.

The families' parameters are written here as numbers, not read from config.json. So the project's
tests fail if a config.json does not describe its recording.
"""

import math
import re

import numpy as np
import torch
from safetensors.torch import load_file

QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
QKVOUT = ("q_proj", "k_proj", "v_proj", "out_proj")


def frequencies(dim, theta=1e4):
    return theta ** (-np.arange(0, dim, 2) / dim)


def llama3(dim):
    base, longest, factor = frequencies(dim, 500.0), 16, 8.0
    turns = longest * base / (2 * math.pi)
    blend = (turns - 1.0) / (2.0 - 1.0)
    smooth = (1 - blend) * base / factor + blend * base
    return np.where(turns < 1, base / factor, np.where(turns > 2, base, smooth))


def yarn(dim, *, theta, factor, fast, slow, longest, truncate):
    def index(turns):
        return dim * math.log(longest / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index(fast), index(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    base = frequencies(dim, theta)
    return base * (1 - ramp) + base / factor * ramp


GPT_OSS = yarn(24, theta=150000.0, factor=32, fast=32, slow=1, longest=4096, truncate=False)
LLAMA_YARN = yarn(16, theta=500.0, factor=4, fast=4, slow=0.5, longest=16, truncate=True)
LONG = np.array([1.0, 1.5, 2.0, 3.0, 3.5, 4.0])
SHORT = np.array([1.0, 1.1, 1.3, 1.5, 1.8, 2.0])
LONGROPE_FACTOR = math.sqrt(1 + math.log(4) / math.log(16))
LLAMA = {"names": QKVO, "heads": (4, 2), "rope": frequencies(16)}
DINOV2 = {
    "names": ("attention.query", "attention.key", "attention.value", "output.dense"),
    "causal": False,
}
NEOX = {"fused": "per head", "names": ("query_key_value", "dense")}

# heads: number of query heads and of key heads. rope: inverse frequencies, or one set per layer.
# window: largest distance between the indices of query and key, or one per layer.
FAMILIES = {
    "modernbert": {
        "names": ("Wqkv", "Wo"),
        "rope": [frequencies(16, 160000.0), frequencies(16)],
        "window": [99, 4],
        "causal": False,
    },
    "clip": {"names": QKVOUT},
    "siglip": {"names": QKVOUT, "causal": False},
    "mpnet": {
        "names": tuple("qkvo"),
        "causal": False,
        "relative": "encoder.relative_attention_bias",
    },
    "albert": {"names": ("query", "key", "value", "dense"), "causal": False},
    "esm": {
        "names": ("query", "key", "value", None),
        "causal": False,
        "rope": frequencies(16),
    },
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "opt": {"names": QKVOUT},
    "gpt_neox": NEOX | {"rope": frequencies(4)},
    "whisper": {"names": QKVOUT},
    "qwen2": LLAMA | {"window": [99, 3]},
    "qwen2-bidirectional": LLAMA | {"window": [99, 3], "causal": False},
    "phi3": LLAMA | {"names": ("qkv_proj", "o_proj"), "window": 4},
    "phi3-longrope-short": LLAMA
    | {
        "names": ("qkv_proj", "o_proj"),
        "rope": frequencies(12) / SHORT,
        "rope_factor": LONGROPE_FACTOR,
    },
    "phi3-longrope-long": LLAMA
    | {
        "names": ("qkv_proj", "o_proj"),
        "rope": frequencies(12) / LONG,
        "rope_factor": LONGROPE_FACTOR,
    },
    "llama-linear": LLAMA | {"rope": frequencies(16) / 4},
    "llama-llama3": LLAMA | {"rope": llama3(16)},
    "llama-yarn": LLAMA | {"rope": LLAMA_YARN, "rope_factor": 0.1 * math.log(4) + 1},
    "llama-sharded-bf16": LLAMA | {"heads": (4, 1)},
    "mistral-positions": LLAMA | {"window": 3},
    "roberta": {"names": ("query", "key", "value", None), "causal": False},
    "gpt_oss": LLAMA | {"rope": GPT_OSS, "rope_factor": 0.1 * math.log(32) + 1, "window": [3, 99]},
    "gpt2-inverse-layer": {
        "names": ("c_attn", "c_proj"),
        "transposed": True,
        "scale": [1 / 4, 1 / 8],
    },
    "t5-v1_1": {
        "names": tuple("qkvo"),
        "heads": (3, 3),
        "scale": 1.0,
        "relative": "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias",
    },
    "gemma": LLAMA | {"rope": frequencies(24)},
    "gemma3_text": LLAMA
    | {
        "rope": [frequencies(24), frequencies(24, 1e6) / 8],
        "window": [3, 99],
        "scale": 20**-0.5,
    },
    "gemma3_text-bidirectional": LLAMA
    | {
        "rope": [frequencies(24), frequencies(24, 1e6)],
        "window": [3, 99],
        "scale": 20**-0.5,
        "causal": False,
    },
    "granite": LLAMA | {"scale": 0.125},
    "starcoder2": LLAMA | {"window": 3},
    "stablelm": LLAMA | {"rope": frequencies(4)},
    "phi": {"names": ("q_proj", "k_proj", "v_proj", "dense"), "rope": frequencies(8)},
    "cohere": LLAMA | {"interleaved": True},
    "gptj": {"names": QKVOUT, "rope": frequencies(8), "interleaved": True},
    "bloom": NEOX | {"heads": (6, 6), "alibi": True},
    "mpt": {"names": ("Wqkv", "out_proj"), "heads": (6, 6), "alibi": True},
    "falcon": NEOX | {"fused": "per group", "heads": (4, 2), "rope": frequencies(16)},
}
# Press et al.'s slopes for 6 heads: the slopes of 4 heads, and every other slope of 8 heads
SLOPES = np.array([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])


def rotate(heads, positions, spec, rope):
    """Rotate pairs as complex numbers by their angles: (batch, heads, tokens, head_dim)."""
    angles = (positions[:, None, :, None].astype("f4") * rope.astype("f4")).astype(float)
    turn = spec.get("rope_factor", 1.0) * np.exp(1j * angles)
    turned, rest = heads[..., : 2 * len(rope)], heads[..., 2 * len(rope) :]
    if spec.get("interleaved"):
        pairs = (turned[..., ::2] + 1j * turned[..., 1::2]) * turn
        turned = np.stack([pairs.real, pairs.imag], -1).reshape(turned.shape)
    else:
        half = len(rope)
        pairs = (turned[..., :half] + 1j * turned[..., half:]) * turn
        turned = np.concatenate([pairs.real, pairs.imag], -1)
    return np.concatenate([turned, rest], -1)


def t5_bias(table, distance, *, is_causal):
    """Look up the bias by explicit tables.

    There are 32 buckets for a largest distance of 128, or 8 for one of 6.
    """
    if len(table) == 32:  # 0 to 7 exact; 8 + floor(8 * ln(d / 8) / ln(128 / 8)) beyond; 16 more ...
        far = np.array([*range(8), 8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 10, 10])
        return table[far[np.abs(distance)] + 16 * (distance > 0)]
    if is_causal:  # 0, 1, 2, 3 exact; 4 + floor(4 * ln(d / 4) / ln(6 / 4)) beyond
        far = np.array([0, 1, 2, 3, 4, 6] + [7] * 50)
        return table[far[np.maximum(-distance, 0)]]
    # 0, 1 exact; 2 + floor(2 * ln(d / 2) / ln(6 / 2)) beyond; 4 more for keys after the query
    far = np.array([0, 1, 2, 2, 3, 3] + [3] * 50)
    return table[far[np.abs(distance)] + 4 * (distance > 0)]


def split(tensor, count):
    batch_size, seq_len, width = tensor.shape
    return tensor.reshape(batch_size, seq_len, count, width // count).transpose(0, 2, 1, 3)


def rms_norm(heads, weight):
    return heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 1e-6) * (1 + weight)


def project(spec, weight, name, states):
    matrix, bias = weight(f"{name}.weight"), weight(f"{name}.bias")
    product = states @ (matrix if spec.get("transposed") else matrix.T)
    return product if bias is None else product + bias


def queries_keys_values(spec, weight, states, kv_states, num_heads, num_kv):
    """Return three arrays of (batch, heads, tokens, head_dim)."""
    *inputs, _ = spec["names"]
    if len(inputs) == 3:
        given = zip(
            inputs, (states, kv_states, kv_states), (num_heads, num_kv, num_kv), strict=True
        )
        return [split(project(spec, weight, name, x), count) for name, x, count in given]
    fused = split(project(spec, weight, inputs[0], states), num_heads + 2 * num_kv)
    if spec.get("fused") == "per head":
        return fused[:, ::3], fused[:, 1::3], fused[:, 2::3]
    if spec.get("fused") == "per group":  # two query heads, their key, their value
        return fused[:, [0, 1, 4, 5]], fused[:, [2, 6]], fused[:, [3, 7]]
    return np.split(fused, [num_heads, num_heads + num_kv], axis=1)


def forbidden_keys(distance, is_causal, window, mask, batch_size):
    """Compute the forbidden keys, and check that the recorded mask only adds padding to them."""
    forbidden = (np.abs(distance) > window) | (is_causal & (distance > 0))
    if mask is None:
        assert not forbidden.any()
        return forbidden
    assert ((mask[0, 0] < 0) == forbidden).all()
    padding = (mask[-1, 0] < 0) & ~forbidden
    assert not padding[:, :-2].any()
    with_padding = np.repeat(forbidden[None, None], batch_size, axis=0)
    with_padding[-1, 0] |= padding
    assert not with_padding.all(-1).any()
    return with_padding


def compute(spec, weight, record, name):
    """Compute attn_output and attn_weights of one module."""
    layer = int(re.search(r"\d+", name)[0])

    def of_layer(value):
        return value[layer] if isinstance(value, list) else value

    states, kv_states = record("hidden_states").astype(float), record("key_value_states")
    is_cross = kv_states is not None
    kv_states = kv_states.astype(float) if is_cross else states
    is_causal = spec.get("causal", not (is_cross or name.startswith(("encoder", "vision"))))
    num_heads, num_kv = spec.get("heads", (record("attn_weights").shape[1],) * 2)
    q, k, v = queries_keys_values(spec, weight, states, kv_states, num_heads, num_kv)
    if (q_norm := weight("q_norm.weight")) is not None:
        q, k = rms_norm(q, q_norm), rms_norm(k, weight("k_norm.weight"))
    if "rope" in spec:
        positions = record("position_ids")
        if positions is None:
            positions = np.arange(states.shape[1])[None]
        q, k = (rotate(x, positions, spec, of_layer(spec["rope"])) for x in (q, k))
    k, v = (np.repeat(x, num_heads // num_kv, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) * of_layer(spec.get("scale", q.shape[-1] ** -0.5))
    distance = np.arange(kv_states.shape[1]) - np.arange(states.shape[1])[:, None]
    if spec.get("alibi"):
        scores = scores - SLOPES[:, None, None] * np.abs(distance)
    if spec.get("relative") and not is_cross:
        table = weight("weight", spec["relative"].format(stack=name.split(".")[0]))
        bias = t5_bias(table, distance, is_causal=is_causal).transpose(2, 0, 1)
        assert np.allclose(bias, record("position_bias"), atol=1e-6)
        scores = scores + bias
    window = of_layer(spec.get("window", 99))
    forbidden = forbidden_keys(distance, is_causal, window, record("attention_mask"), len(states))
    exponents = np.where(forbidden, 0, np.exp(scores))
    sinks = weight("sinks")
    sink = 0 if sinks is None else np.exp(sinks)[:, None, None]
    attn_weights = exponents / (exponents.sum(-1, keepdims=True) + sink)
    context = (attn_weights @ v).transpose(0, 2, 1, 3).reshape(*states.shape[:2], -1)
    output = spec["names"][-1]
    return project(spec, weight, output, context) if output else context, attn_weights


def check(folder):
    """Raise AssertionError if a recorded module differs from the recomputed one."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    records = np.load(folder / "golden.npz")
    modules = [key.split("|")[0] for key in records if key.endswith("|hidden_states")]
    worst = [0.0, 0.0]
    for name in modules:

        def weight(suffix, module=name):
            found = [t for n, t in tensors.items() if f".{n}".endswith(f".{module}.{suffix}")]
            return found[0].to(torch.float64).numpy() if found else None

        def record(key, module=name):
            return records.get(f"{module}|{key}")

        output, attn_weights = compute(FAMILIES[folder.name], weight, record, name)
        expected = record("attn_output")
        errors = (
            np.abs(output - expected).max() / np.abs(expected).max(),
            np.abs(attn_weights - record("attn_weights")).max(),
        )
        worst = np.maximum(worst, errors)
    print(f"{folder.name}: {len(modules)} modules, outputs {worst[0]:.0e}, weights {worst[1]:.0e}")
    assert worst[0] < 2e-5, folder
    assert worst[1] < 1e-5, folder
