"""The type of make_golden.py's cases, and settings that many of them share."""

from dataclasses import dataclass, field

REMOVED = object()
"""Marks a key to remove from config.json, which older versions of transformers did not write."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and one call of it."""

    model: type
    config: object
    published: dict = field(default_factory=dict)
    """Changes that make config.json equal to those of published checkpoints. The recorded model is
    loaded from the changed file."""
    batch_size: int = 2
    q_seq_len: int = 7
    encoder_seq_len: int = 0
    """Length of the encoder's sequence; the decoder's is q_seq_len."""
    is_padded: bool = False
    """Whether the last sequence is two tokens shorter than the others (padded at its end)."""
    positions: tuple = ()
    """Position of each token of each sequence; empty: no positions are passed."""
    gain: float = 1.5
    """Scale of the weights, large enough that attention is far from uniform."""
    is_bfloat16: bool = False
    max_shard_size: str = "1GB"


SMALL = {
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
SINGLE = GROUPED | {"num_hidden_layers": 1}
# heads wider than the embeddings, and sequences far beyond the original 16 positions
LONG = GROUPED | {
    "hidden_size": 32,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
LONG_CALL = {"batch_size": 1, "q_seq_len": 48}
V4_ROPE = {"rope_parameters": REMOVED, "rope_theta": 10000.0}
V4_LAYERS = V4_ROPE | {"layer_types": REMOVED}
TOWER = {
    "hidden_size": 64,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3, 1.5, 1.8, 2.0],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 3.5, 4.0],
    "original_max_position_embeddings": 16,
}
PHI3_LONGROPE = LONG | {"hidden_size": 64, "original_max_position_embeddings": 16}
del PHI3_LONGROPE["head_dim"]
