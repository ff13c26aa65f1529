"""The mathematics of an attention block.

It imports only the standard library and NumPy, because the server also reads configurations.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from polyhead_models.json_dataclass import read_object
from polyhead_models.rotary import Rotary  # noqa: TC001 - read_object resolves annotations

__all__ = ["PRECISIONS", "AttentionConfig", "ConfigError"]

CONFIG_KEY = "polyhead.config"
"""ONNX metadata key under which the configuration is stored, as JSON."""
MAX_DIM = 2**31 - 1
"""Largest width or count, because the contract carries them as int32."""
MIN_NUMBER, MAX_NUMBER = 1e-20, 1e20
"""Bounds of scale, softcap and the norm's epsilon; products with them stay finite in float32."""
MAX_RELATIVE_DISTANCE = 2**16
"""Largest distance with its own bias, because the graph stores one number per distance."""
PRECISIONS = ("float32", "float16", "int8")
"""float16: weights and arithmetic are float16. int8: projections multiply 8-bit integers, with
weights quantised per output and embeddings quantised per token at run time; the rest is float32."""
_BYTES_PER_WEIGHT = {"float32": 4, "float16": 2, "int8": 1}

_COUNTS = (
    "embed_dim",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "v_head_dim",
    "kdim",
    "vdim",
    "sliding_window",
    "relative_buckets",
    "relative_max_distance",
)


class ConfigError(ValueError):
    """A configuration that is not a valid attention block, or weights that do not fit it."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The mathematics of one multi-head attention block.

    In order: project, split into heads, normalise (q/k RMSNorm), rotate, compare, scale, soft-cap,
    add biases and masks, softmax (with sinks), weigh the values, concatenate, project.

    Raises ConfigError if the values do not describe a valid block.
    """

    embed_dim: int
    """Width of the query embeddings, and of the output if there is an output projection."""
    num_heads: int
    """Number of attention heads."""
    num_kv_heads: int = 0
    """Number of heads of keys and values, each shared by num_heads / num_kv_heads consecutive query
    heads (grouped-query attention; 1: multi-query); 0: num_heads."""
    head_dim: int = 0
    """Width of each head's queries and keys; 0: embed_dim / num_heads."""
    v_head_dim: int = 0
    """Width of each head's values; 0: head_dim."""
    kdim: int = 0
    """Width of the key embeddings; 0: embed_dim."""
    vdim: int = 0
    """Width of the value embeddings; 0: embed_dim."""
    is_causal: bool = False
    """Whether query i attends only to keys 0..i (aligned at the first query and the first key)."""
    sliding_window: int = 0
    """Query i attends only to keys j with |i - j| < sliding_window; 0: to keys at any distance."""
    scale: float = 0.0
    """Factor on the scores before softmax; 0: 1 / sqrt(head_dim)."""
    softcap: float = 0.0
    """Scaled scores x become softcap * tanh(x / softcap), before biases and masks; 0: no cap."""
    rotary: Rotary | None = None
    """Rotary position embedding of queries and keys, if any."""
    has_alibi: bool = False
    """Whether each head subtracts a slope times the distance |i - j| from its scores (ALiBi)."""
    relative_buckets: int = 0
    """Number of buckets of T5's relative position bias, added to the scaled scores; 0: no bias.
    The buckets are T5's causal ones if is_causal, otherwise its bidirectional ones."""
    relative_max_distance: int = 0
    """Keys at this distance or farther share the last bucket."""
    has_sinks: bool = False
    """Whether each head has a learned sink: one more score in the softmax, without a value. The
    attention weights then sum to less than 1."""
    qk_norm_eps: float = 0.0
    """Epsilon of the RMSNorm of each head's queries and keys after their projection; 0: no norm."""
    has_in_proj: bool = True
    """Whether query, key and value are projected. If not (scaled-dot-product attention alone),
    they hold the heads side by side: embed_dim is num_heads * head_dim."""
    has_out_proj: bool = True
    """Whether the heads' concatenated contexts are projected back to embed_dim."""
    precision: str = "float32"
    """Numeric precision of the computation: one of PRECISIONS."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "num_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in _COUNTS:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
            if getattr(self, name) > MAX_DIM:
                raise ConfigError(f"{name} is above {MAX_DIM}, the most that is supported")
        for name in ("scale", "softcap", "qk_norm_eps"):
            number = float(getattr(self, name))  # an int too, so that equal configs give equal JSON
            object.__setattr__(self, name, number)
            if number and not MIN_NUMBER <= number <= MAX_NUMBER:
                raise ConfigError(
                    f"{name} is {number}; it must be positive, from {MIN_NUMBER:g} to "
                    f"{MAX_NUMBER:g}"
                )
        self._fill_in()
        self._check_heads()
        self._check_positions()
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}"
            )

    def _fill_in(self) -> None:
        """Replace zeros that stand for defaults."""

        def default(name: str, value: float) -> None:
            object.__setattr__(self, name, getattr(self, name) or value)

        if not self.head_dim and self.embed_dim % self.num_heads:
            raise ConfigError(
                f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}; "
                "choose a divisor, or set head_dim"
            )
        default("num_kv_heads", self.num_heads)
        default("head_dim", self.embed_dim // self.num_heads)
        default("v_head_dim", self.head_dim)
        default("kdim", self.embed_dim if self.has_in_proj else self.k_proj_dim)
        default("vdim", self.embed_dim if self.has_in_proj else self.v_proj_dim)
        default("scale", 1.0 / math.sqrt(self.head_dim))

    def _check_heads(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; every head of keys serves as many query heads"
            )
        for name in ("q_proj_dim", "k_proj_dim", "v_proj_dim", "context_dim"):
            if getattr(self, name) > MAX_DIM:
                raise ConfigError(
                    f"{name}, the width of all heads side by side, is {getattr(self, name)}; at "
                    f"most {MAX_DIM} is supported"
                )
        if self.has_in_proj:
            return
        if self.has_out_proj:
            raise ConfigError("a block without input projections has no output projection either")
        widths = {"embed_dim": self.q_proj_dim, "kdim": self.k_proj_dim, "vdim": self.v_proj_dim}
        for name, width in widths.items():
            if getattr(self, name) != width:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; without input projections it is {width}, "
                    "the width of all its heads side by side"
                )

    def _check_positions(self) -> None:
        if self.rotary is not None and self.rotary.dim > self.head_dim:
            raise ConfigError(
                f"rotary dim is {self.rotary.dim}; a head has no more than {self.head_dim}"
            )
        if not self.relative_buckets:
            if self.relative_max_distance:
                raise ConfigError("relative_max_distance needs relative_buckets")
            return
        directions = 1 if self.is_causal else 2
        if self.relative_buckets % directions or self.relative_buckets // directions < 2:
            raise ConfigError(
                f"relative_buckets is {self.relative_buckets}; expected at least 2 for each "
                "direction, as many for keys ahead as for keys behind"
            )
        num_exact = self.relative_buckets // directions // 2
        if not num_exact < self.relative_max_distance <= MAX_RELATIVE_DISTANCE:
            raise ConfigError(
                f"relative_max_distance is {self.relative_max_distance}; with "
                f"{self.relative_buckets} buckets it must be above {num_exact} and at most "
                f"{MAX_RELATIVE_DISTANCE}"
            )

    @property
    def q_proj_dim(self) -> int:
        """Width of all heads' queries side by side: num_heads x head_dim."""
        return self.num_heads * self.head_dim

    @property
    def k_proj_dim(self) -> int:
        """Width of all heads' keys side by side: num_kv_heads x head_dim."""
        return self.num_kv_heads * self.head_dim

    @property
    def v_proj_dim(self) -> int:
        """Width of all heads' values side by side: num_kv_heads x v_head_dim."""
        return self.num_kv_heads * self.v_head_dim

    @property
    def context_dim(self) -> int:
        """Width of all heads' contexts side by side: num_heads x v_head_dim."""
        return self.num_heads * self.v_head_dim

    @property
    def output_dim(self) -> int:
        """Width of the output."""
        return self.embed_dim if self.has_out_proj else self.context_dim

    @property
    def dtype(self) -> str:
        """NumPy dtype name of the block's inputs and outputs."""
        return "float16" if self.precision == "float16" else "float32"

    @property
    def changed_inputs(self) -> tuple[str, ...]:
        """The ones of query, key and value that the block projects, norms or rotates.

        The others enter attention unchanged, as heads.
        """
        if self.has_in_proj:
            return ("query", "key", "value")
        return ("query", "key") if self.rotary or self.qk_norm_eps else ()

    @property
    def depends_on_index(self) -> bool:
        """Whether scores depend on the indices of query and key, apart from rotary positions."""
        return bool(
            self.is_causal or self.sliding_window or self.has_alibi or self.relative_buckets
        )

    @property
    def fused_operator(self) -> str:
        """ONNX Runtime's fused operator for this attention, or '' if it has no such operator."""
        # GroupQueryAttention supports a softcap but takes 1.5 times as long with it as the
        # explicit branch (benchmarks/variants.py at 512 tokens)
        if self.has_alibi or self.relative_buckets or self.softcap:
            return ""
        if not self.is_causal:
            is_plain = not (self.sliding_window or self.has_sinks)
            return "MultiHeadAttention" if is_plain else ""
        # the only heads that GroupQueryAttention supports (ONNX Runtime 1.28 to 1.32)
        takes_heads = self.head_dim % 8 == 0 and self.v_head_dim == self.head_dim
        return "GroupQueryAttention" if takes_heads else ""

    def runs_fused(
        self, *, need_weights: bool, has_mask: bool, q_seq_len: int, kv_seq_len: int
    ) -> bool:
        """Whether one run of the graph takes its fused branch.

        The graph decides by the same rule; this method predicts its choice.
        """
        if need_weights or has_mask or not self.fused_operator:
            return False
        # GroupQueryAttention aligns its causal mask at the last query and key, polyhead at the
        # first ones. The two agree only if there are as many queries as keys.
        return not self.is_causal or q_seq_len == kv_seq_len

    @property
    def fused_holds_scores(self) -> bool:
        """Whether the fused operator, too, holds a q_seq_len x kv_seq_len matrix (measured)."""
        return self.has_sinks

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each required weight; projections are shaped as in torch.nn.Linear."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.has_in_proj:
            shapes["q_proj.weight"] = (self.q_proj_dim, self.embed_dim)
            shapes["k_proj.weight"] = (self.k_proj_dim, self.kdim)
            shapes["v_proj.weight"] = (self.v_proj_dim, self.vdim)
        if self.has_out_proj:
            shapes["out_proj.weight"] = (self.embed_dim, self.context_dim)
        if self.qk_norm_eps:
            shapes["q_norm.weight"] = (self.head_dim,)
            shapes["k_norm.weight"] = (self.head_dim,)
        if self.relative_buckets:
            shapes["relative_bias.weight"] = (self.relative_buckets, self.num_heads)
        if self.has_sinks:
            shapes["sinks"] = (self.num_heads,)
        return shapes

    @property
    def weights_bytes(self) -> int:
        """Size of the required weights in the block's precision."""
        count = sum(math.prod(shape) for shape in self.weight_shapes().values())
        return _BYTES_PER_WEIGHT[self.precision] * count

    def bias_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each optional bias, one per projection."""
        return {
            name.replace(".weight", ".bias"): shape[:1]
            for name, shape in self.weight_shapes().items()
            if name.endswith("_proj.weight")
        }

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys. Equal configurations give equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AttentionConfig:
        """Parse the output of to_json. Raises ConfigError for any other text."""
        return read_object(cls, text, ConfigError, max_integer=MAX_DIM)
