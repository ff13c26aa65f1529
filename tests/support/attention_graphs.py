"""Graphs of blocks as the engine runs them, and the inputs of such runs."""

from __future__ import annotations

import numpy as np
from ort_sessions import loaded

from polyhead_models.graph import build_model
from polyhead_server.call import AttentionInputs
from polyhead_server.engine.runs.attention_run import AttentionRun

PLENTY = 1 << 30


class Graph:
    """Runs a block's graph, and records the names and shapes of each run."""

    def __init__(self, block):
        self.config = block.config
        self._session = loaded(build_model(block))
        self.runs = []

    def __call__(self, names, feeds):
        self.runs.append((names, {name: np.shape(array) for name, array in feeds.items()}))
        return self._session.run(names, feeds)

    def runs_of(self, inputs, max_scores_bytes=PLENTY):
        return AttentionRun(inputs, self.config, self, max_scores_bytes)

    @property
    def largest_matrix(self):
        """Bytes of the largest score matrix that a run of the explicit branch held."""
        sizes = [0]
        for names, shapes in self.runs:
            # that of a run which only projects has a row a sequence: less than the keys themselves
            if "past_key" in shapes and "projected_key" not in names:
                batch_size, rows, _ = shapes["query"]
                num_heads = shapes["heads"][0] if "heads" in shapes else self.config.num_heads
                keys = shapes["key"][1] + shapes["past_key"][2]
                sizes.append(4 * batch_size * num_heads * rows * keys)
        return max(sizes)


def inputs_of(config, arguments, **others):
    """Make the inputs that planning makes of such arguments."""
    query = arguments["query"]
    key = arguments.get("key", query)
    mask, lengths = arguments.get("attn_mask"), arguments.get("kv_lengths")
    if mask is not None:
        mask = np.where(mask, 0, -np.inf) if mask.dtype == bool else mask
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape).astype(np.float32)
    positions = {"positions": None, "key_positions": None}
    if config.rotary is not None:
        given = arguments.get("positions")
        keys = arguments.get("key_positions", None if "key" in arguments else given)
        for name, wanted, array in (("positions", given, query), ("key_positions", keys, key)):
            numbers = np.arange(array.shape[1]) if wanted is None else wanted
            positions[name] = np.broadcast_to(numbers, array.shape[:2]).astype(np.int64).copy()
    return AttentionInputs(
        query=query,
        key=key,
        value=arguments.get("value", key),
        attn_mask=mask,
        kv_lengths=None if lengths is None else np.asarray(lengths, np.int64),
        **({"weights": None} | positions | others),
    )
