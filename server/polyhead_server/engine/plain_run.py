"""A request that is one plain run of the graph, as most are: decided once for its form.

To decide it for each request, as AttentionRun does, took 45 us (10 tokens of width 6, in a server
under load).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionOutputs
from polyhead_server.engine.cost import FLOAT_BYTES, fused_sequences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import AttentionCall
    from polyhead_server.engine.runtime import Model, RunOptions

__all__ = ["PlainRun"]

_NEED_WEIGHTS = {"need_weights": np.ones((), np.bool_)}
_COMPACT_MAX_TOKENS = 64
"""Of longer sequences the fused operator, which holds no score matrix, soon takes less time."""


@dataclass(frozen=True, slots=True)
class PlainRun:
    """One run of the graph for all sequences and query rows."""

    need_weights: bool
    is_fused: bool
    is_short: bool
    """Whether it is for the compact graph, if the model has one: short self-attention."""
    max_sequences: int
    """Of more the score matrix might have to be computed in parts."""

    @classmethod
    def of(
        cls,
        call: AttentionCall,
        config: AttentionConfig,
        max_scores_bytes: int,
        *,
        runs_inline: bool,
    ) -> PlainRun | None:
        """Make what runs a call that fits its model; None: it is for AttentionRun."""
        has_extras = call.attn_mask is not None or call.kv_lengths or config.rotary is not None
        if has_extras or not call.need_output or config.dtype != "float32":
            return None
        weights = call.weights
        if weights is not None and (weights.queries or not weights.is_plain):
            return None
        scores = config.num_heads * call.q_seq_len * call.kv_seq_len
        max_sequences = max_scores_bytes // (scores * FLOAT_BYTES)
        is_self = call.key is None and call.value is None
        is_few = runs_inline and call.q_seq_len <= _COMPACT_MAX_TOKENS
        is_short = is_self and is_few and max_sequences > 0
        fused = weights is None and fused_sequences(
            config,
            has_mask=False,
            q_seq_len=call.q_seq_len,
            kv_seq_len=call.kv_seq_len,
            max_scores_bytes=max_scores_bytes,
        )
        return cls(
            need_weights=weights is not None,
            is_fused=bool(fused),
            is_short=is_short,
            max_sequences=fused if fused and not is_short else max_sequences,
        )

    def __call__(
        self,
        model: Model,
        embeddings: Sequence[NDArray[Any]],
        batch_size: int,
        options: RunOptions | None = None,
    ) -> AttentionOutputs:
        """Run query, key and value, so many sequences at a time; without options to the end."""
        if len(embeddings[0]) <= batch_size:
            outputs = self._run(model, options, *embeddings)
        else:
            parts = [
                self._run(
                    model, options, *(array[first : first + batch_size] for array in embeddings)
                )
                for first in range(0, len(embeddings[0]), batch_size)
            ]
            outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
        attn_weights = outputs[1] if len(outputs) > 1 else None
        return AttentionOutputs(outputs[0], attn_weights, None, self.is_fused)

    def _run(
        self,
        model: Model,
        options: RunOptions | None,
        query: NDArray[Any],
        key: NDArray[Any],
        value: NDArray[Any],
    ) -> list[NDArray[Any]]:
        names = ["output", "attn_weights"] if self.need_weights else ["output"]
        if self.is_short and model.has_compact_graph:
            return model.run_compact(names, query)
        feeds = {"query": query, "key": key, "value": value}
        if self.is_fused:
            return model.run_graph(names, feeds, options)
        return model.run_graph(names, feeds | _NEED_WEIGHTS, options)
