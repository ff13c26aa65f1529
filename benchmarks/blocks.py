"""The attention blocks of the benchmarks: one for each variant, in realistic sizes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_models.config import AttentionConfig
from polyhead_models.random_numbers import UNIT_VARIANCE, uniform
from polyhead_models.rotary import Rotary
from polyhead_server.call import AttentionInputs, AttentionOutputs, WeightsSelection
from polyhead_server.engine.runs.attention_run import AttentionRun
from polyhead_server.engine.runtime import Engine
from polyhead_server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from polyhead_server.engine.model import Model

__all__ = ["VARIANTS", "Variant", "prepare_run", "make_inputs", "load_model", "random_embeddings"]

EMBED_DIM, NUM_HEADS, HEAD_DIM = 768, 12, 64
WINDOW = 256


@dataclass(frozen=True)
class Variant:
    """A block that differs from BERT's in the property of its name."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    queries_per_key: float = 1.0
    """Number of queries divided by number of keys."""

    @property
    def config(self) -> AttentionConfig:
        """Configuration with 12 heads of 64 and embeddings of 768, except the variant's fields."""
        return AttentionConfig(
            **{"embed_dim": EMBED_DIM, "num_heads": NUM_HEADS, "head_dim": HEAD_DIM, **self.fields}
        )


_CAUSAL = {"is_causal": True}
_ROTARY = Rotary(dim=HEAD_DIM)
_INTERLEAVED = Rotary(dim=HEAD_DIM, is_interleaved=True)
_YARN = Rotary(dim=HEAD_DIM, scaling="yarn", factor=4.0, original_max_positions=512)
_T5 = {"relative_buckets": 32, "relative_max_distance": 128, "scale": 1.0}
_SDPA = {"has_in_proj": False, "has_out_proj": False}

VARIANTS = (
    Variant("MHA"),
    Variant("causal", _CAUSAL),
    Variant("GQA, 4 heads of keys", {"num_kv_heads": 4}),
    Variant("MQA", {"num_kv_heads": 1}),
    Variant("causal GQA, 4 heads of keys", {"num_kv_heads": 4} | _CAUSAL),
    Variant(f"sliding window {WINDOW}", {"sliding_window": WINDOW}),
    Variant(f"causal sliding window {WINDOW}", {"sliding_window": WINDOW} | _CAUSAL),
    Variant("v_head_dim 128", {"v_head_dim": 128}),
    Variant("causal v_head_dim 128", {"v_head_dim": 128} | _CAUSAL),
    Variant("softcap", {"softcap": 50.0}),
    Variant("causal softcap", {"softcap": 50.0} | _CAUSAL),
    Variant("causal RoPE", {"rotary": _ROTARY} | _CAUSAL),
    Variant("causal RoPE, interleaved", {"rotary": _INTERLEAVED} | _CAUSAL),
    Variant("causal RoPE, 16 of 64 dimensions", {"rotary": Rotary(dim=16)} | _CAUSAL),
    Variant("causal RoPE, yarn", {"rotary": _YARN} | _CAUSAL),
    Variant("causal ALiBi", {"has_alibi": True} | _CAUSAL),
    Variant("T5 bias", _T5),
    Variant("sinks", {"has_sinks": True}),
    Variant("causal sinks", {"has_sinks": True} | _CAUSAL),
    Variant("causal q/k norm", {"qk_norm_eps": 1e-6} | _CAUSAL),
    Variant("cross-attention, a quarter as many queries", {"kdim": 1024, "vdim": 1024}, 0.25),
    Variant("sdpa, no projections", _SDPA),
)


def load_model(name: str, path: Path) -> Model:
    """Load a model as the server does by default, with one thread on the CPU."""
    engine = Engine(
        provider="cpu",
        provider_options={},
        threads=1,
        spinning=False,
        max_scores_bytes=ServerSettings().max_scores_bytes,
    )
    return engine.load(name, 1, path)


def random_embeddings(seq_len: int, width: int, dtype: str = "float32") -> NDArray[Any]:
    """Draw one sequence with unit variance: (1, seq_len, width)."""
    values = uniform(np.random.PCG64(0), (1, seq_len, width), UNIT_VARIANCE)
    return values.astype(dtype)


def make_inputs(config: AttentionConfig, q_seq_len: int, kv_seq_len: int) -> AttentionInputs:
    """Make inputs of one sequence for the output; self-attention if the widths allow it."""
    query = random_embeddings(q_seq_len, config.embed_dim, config.dtype)
    key = value = query
    if (kv_seq_len, config.kdim, config.vdim) != (q_seq_len, config.embed_dim, config.embed_dim):
        key = random_embeddings(kv_seq_len, config.kdim, config.dtype)
        value = random_embeddings(kv_seq_len, config.vdim, config.dtype)
    has_positions = config.rotary is not None
    return AttentionInputs(
        query=query,
        key=key,
        value=value,
        attn_mask=None,
        kv_lengths=None,
        weights=None,
        positions=np.arange(q_seq_len)[np.newaxis] if has_positions else None,
        key_positions=np.arange(kv_seq_len)[np.newaxis] if has_positions else None,
    )


def prepare_run(
    model: Model, variant: Variant, mode: str, seq_len: int
) -> Callable[[], AttentionOutputs]:
    """Prepare a run for the ``output``, also with the branch ``explicit``, or all ``weights``."""
    q_seq_len = int(seq_len * variant.queries_per_key)
    inputs = make_inputs(model.config, q_seq_len, seq_len)
    if mode == "explicit":  # a mask that masks nothing: fused operators take no masks
        inputs = replace(inputs, attn_mask=np.zeros((1, 1, 1, 1), np.float32))
    if mode == "weights":
        inputs = replace(inputs, weights=WeightsSelection())

    def run() -> AttentionOutputs:
        # a new AttentionRun each time, because it caches the projected keys
        return AttentionRun.on(model, inputs).everything()

    return run
