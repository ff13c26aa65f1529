"""Records how transformers encodes positions, in positions.npz in this folder.

``rotary/<case>`` are inverse frequencies (dim / 2,), and ``rotary/<case>/long`` those of sequences
of ``long_length``. ``rotary_cases`` is the table of cases as JSON: the scaling's parameters, the
attention factor and ``long_length``. ``buckets/<num_buckets>/<max_distance>/<causal or both>`` are
T5's buckets of the distances -300 to 300. ``alibi/<model>`` are the slopes of 1, 2, … 64 heads,
concatenated. Run once, with torch 2.13.0 and transformers 5.23.0; the tests need neither them nor
this script.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

FILE = Path(__file__).parent / "positions.npz"
NUM_HEADS = 64
DISTANCES = torch.arange(-300, 301)
BUCKETS = [(32, 128), (32, 64), (16, 40), (64, 256), (8, 20), (6, 17), (40, 300), (4, 3), (64, 999)]

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096}
SHORT = [1.0 + 0.05 * i for i in range(24)]
LONG = [1.5 + 1.75 * i for i in range(24)]
ROTARY = {
    "none": {"dim": 64, "rope_type": "default"},
    "none_partial": {"dim": 20, "rope_type": "default"},
    "none_theta": {"dim": 128, "rope_type": "default", "rope_theta": 1e6},
    "linear": {"dim": 64, "rope_type": "linear", "factor": 2.5},
    "dynamic": {
        "dim": 64,
        "rope_type": "dynamic",
        "factor": 2.5,
        "original_max_position_embeddings": 4096,
    },
    "dynamic_narrow": {
        "dim": 4,
        "rope_type": "dynamic",
        "rope_theta": 1e6,
        "factor": 8.0,
        "original_max_position_embeddings": 100,
    },
    "llama3_1": {
        "dim": 128,
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "original_max_position_embeddings": 8192,
        **LLAMA3,
    },
    "llama3_2": {
        "dim": 64,
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "original_max_position_embeddings": 8192,
        **LLAMA3,
        "factor": 32.0,
    },
    "llama3_small": {
        "dim": 16,
        "rope_type": "llama3",
        "original_max_position_embeddings": 64,
        "factor": 3.0,
        "low_freq_factor": 1.5,
        "high_freq_factor": 2.5,
    },
    "yarn": {"dim": 128, "rope_type": "yarn", "rope_theta": 1e6, **YARN},
    "yarn_small": {"dim": 8, "rope_type": "yarn", **YARN, "original_max_position_embeddings": 16},
    "yarn_narrow": {"dim": 2, "rope_type": "yarn", **YARN},
    "yarn_betas": {"dim": 64, "rope_type": "yarn", **YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn_untruncated": {  # as in gpt-oss
        "dim": 64,
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "yarn_attention_factor": {"dim": 64, "rope_type": "yarn", **YARN, "attention_factor": 1.25},
    "longrope": {
        "dim": 48,
        "rope_type": "longrope",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "short_factor": SHORT,
        "long_factor": LONG,
    },
}


def rotary(arrays):
    cases = {}
    for name, case in ROTARY.items():
        parameters = {"rope_theta": 10000.0} | {k: v for k, v in case.items() if k != "dim"}
        scaling = parameters["rope_type"]
        longest = parameters.get("original_max_position_embeddings")
        config = LlamaConfig(
            hidden_size=256,
            num_attention_heads=1,
            head_dim=case["dim"],
            max_position_embeddings=longest if scaling == "dynamic" else 131072,
            rope_parameters=dict(parameters),
        )
        if scaling == "default":
            frequencies, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
        else:
            frequencies, factor = ROPE_INIT_FUNCTIONS[scaling](config, "cpu")
        arrays[f"rotary/{name}"] = frequencies.numpy()
        cases[name] = {"dim": case["dim"], "given": parameters, "attention_factor": factor}
        if scaling in {"dynamic", "longrope"}:
            length = 3 * longest + 1
            long, _ = ROPE_INIT_FUNCTIONS[scaling](config, "cpu", seq_len=torch.tensor(length))
            arrays[f"rotary/{name}/long"] = long.numpy()
            cases[name]["long_length"] = length
    arrays["rotary_cases"] = np.array(json.dumps(cases))


def buckets(arrays):
    for (num_buckets, max_distance), is_causal in ((b, c) for b in BUCKETS for c in (True, False)):
        found = T5Attention._relative_position_bucket(
            DISTANCES,
            bidirectional=not is_causal,
            num_buckets=num_buckets,
            max_distance=max_distance,
        )
        name = f"buckets/{num_buckets}/{max_distance}/{'causal' if is_causal else 'both'}"
        arrays[name] = found.numpy().astype(np.int16)


def slopes(arrays):
    mpt, bloom = [], []
    for num_heads in range(1, NUM_HEADS + 1):
        # both return biases of keys; those of two neighbouring keys differ by the slope
        mpt.append(torch.diff(build_mpt_alibi_tensor(num_heads, 2)[:, 0]))
        bloom.append(torch.diff(build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)))
    arrays["alibi/mpt"] = torch.cat([s.flatten() for s in mpt]).numpy()
    arrays["alibi/bloom"] = torch.cat([s.flatten() for s in bloom]).numpy()


def main():
    arrays = {}
    rotary(arrays)
    buckets(arrays)
    slopes(arrays)
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
