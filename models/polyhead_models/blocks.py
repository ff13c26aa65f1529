"""An attention block: a configuration, its weights, and their provenance."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from polyhead._version import __version__
from polyhead_models.config import MAX_DIM, AttentionConfig, ConfigError
from polyhead_models.json_dataclass import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["EXPORTER", "AttentionBlock", "Provenance", "make_block"]

PROVENANCE_KEY = "polyhead.provenance"
"""ONNX metadata key under which the provenance is stored, as JSON."""


EXPORTER = f"polyhead {__version__}"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The origin of a block's weights."""

    source: str
    """What was exported, such as ``checkpoint all-MiniLM-L6-v2``; never a path. A checkpoint whose
    model has code of its own is ``checkpoint NAME, without its own code``."""
    family: str = ""
    """The model family, such as ``bert``."""
    layer: str = ""
    """Which layer of the source, such as ``encoder.layer.0``."""
    weights_sha256: str = ""
    """SHA-256 of the weights before they were converted to the precision, in hexadecimal: equal for
    blocks of the same weights. Of a whole model: of model.onnx.data."""
    exporter: str = ""
    """The software that exported it, such as ``polyhead 0.1.0``."""
    precision_error: float = 0.0
    """Error of the output relative to float32, on random embeddings of unit variance (of a whole
    model: on random input): the norm of the difference divided by the norm of the float32 output;
    0 for float32, and for whole models in float16."""

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Parse the output of to_json. Raises ConfigError for any other text."""
        return read_object(cls, text, ConfigError, max_integer=MAX_DIM)


@dataclass(frozen=True, kw_only=True)
class AttentionBlock:
    """A configuration with its weights.

    ``weights`` maps names to float32 arrays: every name of ``config.weight_shapes()``, such as
    ``q_proj.weight`` (out_features, in_features) as in torch.nn.Linear, and optionally names of
    ``config.bias_shapes()``, such as ``q_proj.bias`` (out_features,).

    Raises ConfigError if a weight is missing or unknown, or if its shape does not match the
    configuration.
    """

    config: AttentionConfig
    weights: Mapping[str, NDArray[np.float32]] = field(repr=False)
    provenance: Provenance

    def __post_init__(self) -> None:
        expected = self.config.weight_shapes() | self.config.bias_shapes()
        for name, array in self.weights.items():
            if name not in expected:
                raise ConfigError(f"weight {name} is unknown; expected one of {sorted(expected)}")
            if array.shape != expected[name]:
                raise ConfigError(
                    f"weight {name} has shape {array.shape}; the configuration asks for "
                    f"{expected[name]}"
                )
        if missing := [name for name in self.config.weight_shapes() if name not in self.weights]:
            raise ConfigError(f"weights are missing: {', '.join(missing)}")

    def weights_sha256(self) -> str:
        """SHA-256 over every weight's name, shape and little-endian bytes, in hexadecimal."""
        digest = sha256()
        for name in sorted(self.weights):
            array = self.weights[name]
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, "<f4").data)
        return digest.hexdigest()


def make_block(
    config: AttentionConfig,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    source: str,
    family: str = "",
    layer: str = "",
) -> AttentionBlock:
    """Make a block whose provenance holds the weights' checksum and the version of polyhead.

    Raises ConfigError if the weights do not fit the configuration.
    """
    provenance = Provenance(source=source, family=family, layer=layer, exporter=EXPORTER)
    block = AttentionBlock(config=config, weights=weights, provenance=provenance)
    return replace(block, provenance=replace(provenance, weights_sha256=block.weights_sha256()))
