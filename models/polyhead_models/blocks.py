"""The last step of every importer: weights become a block that says where it came from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from polyhead._version import __version__
from polyhead_models.config import AttentionBlock, AttentionConfig, Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["make_block"]


def make_block(
    config: AttentionConfig,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    source: str,
    family: str = "",
    layer: str = "",
) -> AttentionBlock:
    """Make a block whose provenance holds its weights' checksum and this version of polyhead.

    Raises ConfigError if the weights do not fit the configuration.
    """
    provenance = Provenance(
        source=source, family=family, layer=layer, exporter=f"polyhead {__version__}"
    )
    block = AttentionBlock(config=config, weights=weights, provenance=provenance)
    return replace(block, provenance=replace(provenance, weights_sha256=block.weights_sha256()))
