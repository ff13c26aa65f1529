"""The mathematics of an attention block.

Standard library and NumPy only: the server reads configurations with this module too.
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
"""Largest width or count: the contract carries them as int32."""
MIN_NUMBER, MAX_NUMBER = 1e-20, 1e20
"""Bounds of scale, softcap and the norm's epsilon: float32 holds them, and what they multiply."""
MAX_RELATIVE_DISTANCE = 2**16
"""Largest distance that has a bias of its own: the graph holds one number for each."""
PRECISIONS = ("float32", "float16", "int8")
"""float16: weights and arithmetic are float16. int8: projections multiply 8-bit integers, weights
quantised per output, embeddings per token as they come; the rest is float32."""

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
    """A configuration that describes no attention block, or weights that do not fit it."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The mathematics of one multi-head attention block.

    In order: project, split into heads, normalise (q/k RMSNorm), rotate, compare, scale, soft-cap,
    add biases and masks, softmax (with sinks), weigh the values, concatenate, project.

    Raises ConfigError when made with values that make no block.
    """

    embed_dim: int
    """Width of the query embeddings, and of the output if there is an output projection."""
    num_heads: int
    """Number of attention heads."""
    num_kv_heads: int = 0
    """Number of heads of keys and values, each shared by num_heads / num_kv_heads query heads
    that follow each other (grouped-query attention; 1: multi-query); 0: num_heads."""
    head_dim: int = 0
    """Width of each head's queries and keys; 0: embed_dim / num_heads."""
    v_head_dim: int = 0
    """Width of each head's values; 0: head_dim."""
    kdim: int = 0
    """Width of the key embeddings; 0: embed_dim."""
    vdim: int = 0
    """Width of the value embeddings; 0: embed_dim."""
    is_causal: bool = False
    """Whether query i sees only keys 0..i (aligned at the first query and the first key)."""
    sliding_window: int = 0
    """Query i sees only keys j with |i - j| < sliding_window; 0: keys at any distance."""
    scale: float = 0.0
    """Factor on the scores before softmax; 0: 1 / sqrt(head_dim)."""
    softcap: float = 0.0
    """Scaled scores x become softcap * tanh(x / softcap), before biases and masks; 0: they stay."""
    rotary: Rotary | None = None
    """Rotary position embedding of queries and keys; None: there is none."""
    has_alibi: bool = False
    """Whether each head's scores lose a slope times the distance |i - j| (ALiBi)."""
    relative_buckets: int = 0
    """Number of buckets of T5's relative position bias, added to the scaled scores; 0: there is
    none. The buckets are T5's causal ones if is_causal, its bidirectional ones if not."""
    relative_max_distance: int = 0
    """Distance from which on all keys share the last bucket."""
    has_sinks: bool = False
    """Whether each head has a learned score beside those of the keys, which takes its share of
    the softmax and gives nothing: weights then sum to less than 1."""
    qk_norm_eps: float = 0.0
    """Epsilon of the RMSNorm of every head's queries and keys after their projection; 0: there is
    no norm."""
    has_in_proj: bool = True
    """Whether query, key and value are projected. Without (scaled-dot-product attention alone),
    they hold the heads side by side: embed_dim is num_heads * head_dim."""
    has_out_proj: bool = True
    """Whether the heads' concatenated contexts are projected back to embed_dim."""
    precision: str = "float32"
    """What the block computes with: one of PRECISIONS."""

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
            number = float(getattr(self, name))  # also of an int: its text must not differ
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
        """Replace the zeros that stand for something else."""

        def default(name: str, value: float) -> None:
            object.__setattr__(self, name, getattr(self, name) or value)

        if not self.head_dim and self.embed_dim % self.num_heads:
            raise ConfigError(
                f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}; "
                "choose a divisor, or give head_dim"
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
        """NumPy's name of the numbers that the block takes and gives."""
        return "float16" if self.precision == "float16" else "float32"

    @property
    def depends_on_index(self) -> bool:
        """Whether scores depend on where in their sequences query and key stand (rotary aside)."""
        return bool(
            self.is_causal or self.sliding_window or self.has_alibi or self.relative_buckets
        )

    @property
    def fused_operator(self) -> str:
        """ONNX Runtime's operator that computes this attention in one; or ''."""
        # GroupQueryAttention knows a softcap too, and takes half as long again as the explicit
        # branch with it (benchmarks/variants.py at 512 tokens)
        if self.has_alibi or self.relative_buckets or self.softcap:
            return ""
        if not self.is_causal:
            is_plain = not (self.sliding_window or self.has_sinks)
            return "MultiHeadAttention" if is_plain else ""
        # GroupQueryAttention takes only such heads (ONNX Runtime 1.28 to 1.32)
        takes_heads = self.head_dim % 8 == 0 and self.v_head_dim == self.head_dim
        return "GroupQueryAttention" if takes_heads else ""

    def runs_fused(
        self, *, need_weights: bool, has_mask: bool, q_seq_len: int, kv_seq_len: int
    ) -> bool:
        """Whether one run of the graph takes its fused branch.

        The graph decides by the same rule itself; this tells the outcome beforehand.
        """
        if need_weights or has_mask or not self.fused_operator:
            return False
        # GroupQueryAttention aligns its causal mask at the last query and the last key, polyhead
        # at the first of each: the same only for as many queries as keys.
        return not self.is_causal or q_seq_len == kv_seq_len

    @property
    def fused_holds_scores(self) -> bool:
        """Whether even the fused operator holds a q_seq_len x kv_seq_len matrix (measured)."""
        return self.has_sinks

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each weight that the block must have; projections as in torch.nn.Linear."""
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

    def bias_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each bias that the block may have, each on its own: one for a projection."""
        return {
            name.replace(".weight", ".bias"): shape[:1]
            for name, shape in self.weight_shapes().items()
            if name.endswith("_proj.weight")
        }

    def to_json(self) -> str:
        """One line of JSON, keys sorted: the same configuration always gives the same text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AttentionConfig:
        """Read what to_json wrote. Raises ConfigError if the text is anything else."""
        return read_object(cls, text, ConfigError, max_integer=MAX_DIM)
