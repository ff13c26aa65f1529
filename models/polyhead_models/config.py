"""What an attention block is: its configuration, its weights and where they came from.

Standard library and NumPy only: the server reads configurations with this module too.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["AttentionBlock", "AttentionConfig", "ConfigError", "Provenance"]

CONFIG_KEY = "polyhead.config"
"""ONNX metadata key under which the configuration is stored, as JSON."""
PROVENANCE_KEY = "polyhead.provenance"
"""ONNX metadata key under which the provenance is stored, as JSON."""
MAX_DIM = 2**31 - 1
"""Largest width or count: the contract carries them as int32."""


class ConfigError(ValueError):
    """A configuration that describes no attention block, or weights that do not fit it."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The mathematics of one multi-head attention block.

    Raises ConfigError when made with values that make no block.
    """

    embed_dim: int
    """Width of the query embeddings, and of the output if there is an output projection."""
    num_heads: int
    """Number of attention heads."""
    head_dim: int = 0
    """Width of each head's queries, keys and values; 0: embed_dim / num_heads."""
    kdim: int = 0
    """Width of the key embeddings; 0: embed_dim."""
    vdim: int = 0
    """Width of the value embeddings; 0: embed_dim."""
    is_causal: bool = False
    """Whether query i sees only keys 0..i (aligned at the first query and the first key)."""
    scale: float = 0.0
    """Factor on the scores before softmax; 0: 1 / sqrt(head_dim)."""
    has_out_proj: bool = True
    """Whether the heads' concatenated contexts are projected back to embed_dim."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "num_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("head_dim", "kdim", "vdim"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("embed_dim", "num_heads", "head_dim", "kdim", "vdim"):
            if getattr(self, name) > MAX_DIM:
                raise ConfigError(f"{name} is above {MAX_DIM}, the most that is supported")
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ConfigError(f"scale is {self.scale}; it must be finite and positive")
        if not self.head_dim:
            if self.embed_dim % self.num_heads:
                raise ConfigError(
                    f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}; "
                    "choose a divisor, or give head_dim"
                )
            object.__setattr__(self, "head_dim", self.embed_dim // self.num_heads)
        object.__setattr__(self, "kdim", self.kdim or self.embed_dim)
        object.__setattr__(self, "vdim", self.vdim or self.embed_dim)
        object.__setattr__(self, "scale", self.scale or 1.0 / math.sqrt(self.head_dim))

    @property
    def inner_dim(self) -> int:
        """Width of all heads side by side: num_heads x head_dim."""
        return self.num_heads * self.head_dim

    @property
    def output_dim(self) -> int:
        """Width of the output."""
        return self.embed_dim if self.has_out_proj else self.inner_dim

    @property
    def fused_operator(self) -> str:
        """ONNX Runtime's operator that computes this attention without an S x S buffer; or ''."""
        if not self.is_causal:
            return "MultiHeadAttention"
        # GroupQueryAttention takes only such heads (ONNX Runtime 1.28 to 1.32)
        return "GroupQueryAttention" if self.head_dim % 8 == 0 else ""

    def runs_fused(
        self, *, need_weights: bool, has_mask: bool, q_seq_len: int, kv_seq_len: int
    ) -> bool:
        """Whether the graph takes its fused branch, which holds no S x S buffer.

        The graph decides by the same rule itself; this tells the outcome beforehand.
        """
        if need_weights or has_mask or not self.fused_operator:
            return False
        # GroupQueryAttention aligns its causal mask at the last query and the last key, polyhead
        # at the first of each: the same only for as many queries as keys.
        return not self.is_causal or q_seq_len == kv_seq_len

    def weight_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of each projection's weight, (out_features, in_features) as in torch.nn.Linear."""
        shapes = {
            "q_proj.weight": (self.inner_dim, self.embed_dim),
            "k_proj.weight": (self.inner_dim, self.kdim),
            "v_proj.weight": (self.inner_dim, self.vdim),
        }
        if self.has_out_proj:
            shapes["out_proj.weight"] = (self.embed_dim, self.inner_dim)
        return shapes

    def to_json(self) -> str:
        """One line of JSON, keys sorted: the same configuration always gives the same text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AttentionConfig:
        """Read what to_json wrote. Raises ConfigError if the text is anything else."""
        return cls(**_read_object(cls, text))


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a block's weights came from."""

    source: str
    """What was exported, such as ``checkpoint all-MiniLM-L6-v2``; never a path."""
    family: str = ""
    """The model family, such as ``bert``."""
    layer: str = ""
    """Which layer of the source, such as ``encoder.layer.0``."""
    weights_sha256: str = ""
    """SHA-256 of the weights, in hexadecimal."""
    exporter: str = ""
    """The software that exported it, such as ``polyhead 0.1.0``."""

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what to_json wrote. Raises ConfigError if the text is anything else."""
        return cls(**_read_object(cls, text))


@dataclass(frozen=True, kw_only=True)
class AttentionBlock:
    """A configuration with its weights.

    ``weights`` maps ``q_proj.weight``, ``q_proj.bias`` and so on for ``k_proj``, ``v_proj`` and
    ``out_proj`` to float32 arrays laid out as in torch.nn.Linear: weight (out_features,
    in_features), bias (out_features,). Biases are optional, each on its own.

    Raises ConfigError if a weight is missing, unknown, or of another shape than the configuration
    asks for.
    """

    config: AttentionConfig
    weights: Mapping[str, NDArray[np.float32]] = field(repr=False)
    provenance: Provenance

    def __post_init__(self) -> None:
        expected: dict[str, tuple[int, ...]] = {}
        for name, shape in self.config.weight_shapes().items():
            expected[name] = shape
            expected[name.replace(".weight", ".bias")] = shape[:1]
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
            digest.update(array.astype("<f4", order="C").tobytes())
        return digest.hexdigest()


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}


def _read_object(cls: type[AttentionConfig | Provenance], text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{cls.__name__}: not JSON") from error
    types = {f.name: _JSON_TYPES[str(f.type)] for f in fields(cls)}
    required = {f.name for f in fields(cls) if f.default is MISSING}
    if not isinstance(values, dict) or not required <= values.keys() <= types.keys():
        raise ConfigError(f"{cls.__name__}: expected an object with the keys {sorted(types)}")
    for name, value in values.items():
        # bool is an int in Python, and never one here
        if type(value) not in types[name]:
            raise ConfigError(f"{cls.__name__}: {name} is {value!r}, of the wrong type")
        if isinstance(value, int) and abs(value) > MAX_DIM:
            raise ConfigError(f"{cls.__name__}: {name} is larger than {MAX_DIM}")
    return values
