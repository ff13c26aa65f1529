"""The common case of a request that needs one run of the graph. It is planned once per template.

AttentionRun plans each request anew, which took 45 us (10 tokens of width 6, server under load).
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
    from polyhead_server.engine.model import Model, RunOptions

__all__ = ["PlainRun"]

_NEED_WEIGHTS = {"need_weights": np.ones((), np.bool_)}


@dataclass(frozen=True, slots=True)
class PlainRun:
    """One run of the graph for all sequences and query rows."""

    need_weights: bool
    is_fused: bool
    max_sequences: int
    """Most sequences in one run. With more, the score matrix may exceed --max-scores-bytes."""

    @classmethod
    def of(
        cls, call: AttentionCall, config: AttentionConfig, max_scores_bytes: int
    ) -> PlainRun | None:
        """Make the run of a call that fits its model; None if it needs an AttentionRun."""
        has_extras = call.attn_mask is not None or call.kv_lengths or config.rotary is not None
        if has_extras or call.vectors or not call.need_output or config.dtype != "float32":
            return None
        weights = call.weights
        if weights is not None and (weights.queries or not weights.is_plain):
            return None
        scores = config.num_heads * call.q_seq_len * call.kv_seq_len
        fused = weights is None and fused_sequences(
            config, call.q_seq_len, call.kv_seq_len, max_scores_bytes, has_mask=False
        )
        return cls(
            need_weights=weights is not None,
            is_fused=bool(fused),
            max_sequences=fused or max_scores_bytes // (scores * FLOAT_BYTES),
        )

    def __call__(
        self,
        model: Model,
        embeddings: Sequence[NDArray[Any]],
        batch_size: int,
        options: RunOptions | None = None,
    ) -> AttentionOutputs:
        """Run the graph on query, key and value, ``batch_size`` sequences at a time.

        Without options the run cannot be cancelled.
        """
        if len(embeddings[0]) <= batch_size:
            outputs = self._run(model, options, embeddings)
        else:
            parts = [
                self._run(model, options, [array[i : i + batch_size] for array in embeddings])
                for i in range(0, len(embeddings[0]), batch_size)
            ]
            outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
        attn_weights = outputs[1] if self.need_weights else None
        return AttentionOutputs(outputs[0], attn_weights, None, self.is_fused)

    def _run(
        self, model: Model, options: RunOptions | None, embeddings: Sequence[NDArray[Any]]
    ) -> list[NDArray[Any]]:
        return model.run_graph(self.names, self.feeds(embeddings), options)

    @property
    def names(self) -> list[str]:
        """Names of the graph's computed outputs."""
        return ["output", "attn_weights"] if self.need_weights else ["output"]

    def feeds(self, embeddings: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the graph's inputs for query, key and value."""
        feeds = dict(zip(("query", "key", "value"), embeddings, strict=True))
        return feeds if self.is_fused else feeds | _NEED_WEIGHTS
