"""Options of `polyhead export random` and `polyhead export sdpa`: every variant of attention.

It imports no package of an extra, because `polyhead export --help` needs these options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead.cli.command import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup

    from polyhead_models.rotary import Rotary

__all__ = [
    "add_learned_options",
    "add_number",
    "add_variant_options",
    "learned_fields",
    "variant_fields",
]

ROPE_SCALINGS = ("linear", "dynamic", "llama3", "yarn")
QK_NORM_EPS = 1e-6
RELATIVE_MAX_DISTANCE = 128


def add_number(
    options: ArgumentParser | _ArgumentGroup,
    flag: str,
    metavar: str,
    text: str,
    kind: type[int | float] = int,
) -> None:
    """Add an option that takes a number; 0, its default, stands for what its help says."""
    options.add_argument(flag, metavar=metavar, type=kind, default=kind(), help=text)


def add_variant_options(parser: ArgumentParser) -> None:
    """Add the options of variants without weights."""
    options = parser.add_argument_group("variants of attention")
    add_number(
        options,
        "--num-kv-heads",
        "H",
        "number of heads of keys and values, a divisor of --num-heads (default: the same)",
    )
    add_number(
        options, "--v-head-dim", "D", "width of a head's values (default: the width of its keys)"
    )
    add_number(options, "--sliding-window", "W", "let query i see only the keys j with |i - j| < W")
    add_number(options, "--scale", "X", "factor on the scores (default: 1 / sqrt(head_dim))", float)
    add_number(options, "--softcap", "C", "bound the scores x by C * tanh(x / C)", float)
    options.add_argument("--alibi", action="store_true", help="add biases by distance (ALiBi)")
    _add_rope_options(parser)


def add_learned_options(parser: ArgumentParser) -> None:
    """Add the options of variants with their own weights."""
    options = parser.add_argument_group("variants with their own weights")
    add_number(
        options, "--relative-buckets", "N", "add T5's relative position bias, with N buckets"
    )
    options.add_argument(
        "--relative-max-distance",
        metavar="M",
        type=int,
        help=f"keys at distance M or farther share a bucket (default: {RELATIVE_MAX_DISTANCE})",
    )
    options.add_argument("--sinks", action="store_true", help="an attention sink for each head")
    options.add_argument(
        "--qk-norm", action="store_true", help="RMSNorm of every head's queries and keys"
    )


def _add_rope_options(parser: ArgumentParser) -> None:
    options = parser.add_argument_group("rotary position embedding")
    options.add_argument(
        "--rotary-dim",
        metavar="D",
        type=int,
        help="rotate the first D dimensions of each head; without it there is no rotation",
    )
    options.add_argument(
        "--rope-theta", metavar="T", type=float, help="base of the wavelengths (default: 10000)"
    )
    options.add_argument(
        "--rope-interleaved",
        action="store_true",
        default=None,
        help="pair dimensions 2i and 2i + 1, not i and i + D / 2",
    )
    options.add_argument(
        "--rope-scaling",
        choices=ROPE_SCALINGS,
        help="method of scaling to longer sequences (longrope: from checkpoints only)",
    )
    options.add_argument(
        "--rope-factor", metavar="F", type=float, help="factor on the sequence length (default: 1)"
    )
    options.add_argument(
        "--rope-original-max-positions",
        metavar="N",
        type=int,
        help="longest sequence in training (dynamic, llama3, yarn)",
    )


def variant_fields(arguments: Namespace) -> dict[str, Any]:
    """Return AttentionConfig's fields for the options of add_variant_options, and for --causal.

    Raises UsageError and RotaryError.
    """
    return {
        "num_heads": arguments.num_heads,
        "num_kv_heads": arguments.num_kv_heads,
        "head_dim": arguments.head_dim,
        "v_head_dim": arguments.v_head_dim,
        "is_causal": arguments.causal,
        "sliding_window": arguments.sliding_window,
        "scale": arguments.scale,
        "softcap": arguments.softcap,
        "has_alibi": arguments.alibi,
        "rotary": _rotary(arguments),
    }


def learned_fields(arguments: Namespace) -> dict[str, Any]:
    """Return AttentionConfig's fields for add_learned_options' options. Raises UsageError."""
    max_distance = arguments.relative_max_distance
    if not arguments.relative_buckets and max_distance is not None:
        raise UsageError("--relative-max-distance needs --relative-buckets")
    if arguments.relative_buckets and max_distance is None:
        max_distance = RELATIVE_MAX_DISTANCE
    return {
        "relative_buckets": arguments.relative_buckets,
        "relative_max_distance": max_distance or 0,
        "has_sinks": arguments.sinks,
        "qk_norm_eps": QK_NORM_EPS if arguments.qk_norm else 0.0,
    }


def _rotary(arguments: Namespace) -> Rotary | None:
    from polyhead_models.rotary import Rotary

    fields = {
        "theta": arguments.rope_theta,
        "is_interleaved": arguments.rope_interleaved,
        "scaling": arguments.rope_scaling,
        "factor": arguments.rope_factor,
        "original_max_positions": arguments.rope_original_max_positions,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if arguments.rotary_dim is None:
        if fields:
            raise UsageError("options --rope-… need --rotary-dim, such as the width of a head")
        return None
    if "factor" in fields and "scaling" not in fields:
        raise UsageError("--rope-factor needs --rope-scaling")
    return Rotary(dim=arguments.rotary_dim, **fields)
