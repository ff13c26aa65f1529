"""Rules for which keys a query sees: causality, sliding windows, and which layers have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_models.checkpoint.families.settings import integer

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Rule, Settings

__all__ = [
    "FULL",
    "SLIDING",
    "after",
    "causal",
    "causal_or_encoder",
    "every",
    "listed",
    "not_causal",
    "only_causal",
    "window",
]

FULL = "full_attention"
SLIDING = "sliding_attention"


def causal(settings: Settings, _layer: int) -> bool:
    """Read whether a decoder is causal; transformers makes it bidirectional by is_causal: false."""
    if settings.get("use_bidirectional_attention", bool, default=False, null=False):
        raise settings.error(
            "use_bidirectional_attention",
            "transformers' code of this family ignores the key or applies it only in part, so the "
            "checkpoint needs other code; where that code only removes the causal mask, replace "
            "the key by is_causal: false",
        )
    return settings.get("is_causal", bool, default=True)


def only_causal(settings: Settings, layer: int) -> bool:
    """Refuse is_causal: false, because the position bias or transformers allows no other mask."""
    if not causal(settings, layer):
        raise settings.error("is_causal", "this attention is supported as causal only")
    return True


def not_causal(settings: Settings, _layer: int) -> bool:
    """Refuse is_causal: true, on which transformers' implementations of an encoder differ."""
    if settings.get("is_causal", bool, default=False, null=False):
        raise settings.error("is_causal", "this attention is supported without causality only")
    return False


def causal_or_encoder(settings: Settings, layer: int) -> bool:
    """Read whether a BERT is causal, which only one with is_decoder can be."""
    is_decoder = settings.get("is_decoder", bool, default=False, null=False)
    return causal(settings, layer) if is_decoder else not_causal(settings, layer)


def listed(otherwise: Rule[str]) -> Rule[str]:
    """Make a rule for files that list every layer's type; ``otherwise`` is for older files."""

    def read(settings: Settings, layer: int) -> str:
        types = settings.get("layer_types", list, [], [])
        if not types:
            return otherwise(settings, layer)
        if layer >= len(types):
            raise settings.error("layer_types", f"it lists no layer {layer}")
        if types[layer] not in (FULL, SLIDING):
            raise settings.error("layer_types", f"supported are {FULL} and {SLIDING}")
        return str(types[layer])

    return read


def every(period: Rule[int], *, is_full_last: bool = False) -> Rule[str]:
    """Make a rule by which one layer of each period is full, the first or the last one."""

    def read(settings: Settings, layer: int) -> str:
        return SLIDING if (layer + is_full_last) % period(settings, layer) else FULL

    return read


def after(key: str, default: int) -> Rule[str]:
    """Make a rule by which layers have a sliding window from the number in ``key`` on."""
    first = integer(key, default, minimum=0)
    return lambda settings, layer: SLIDING if layer >= first(settings, layer) else FULL


def window(default: int) -> Rule[int]:
    """Make a rule for a decoder's sliding_window; null means no window.

    In a bidirectional decoder, transformers lets a query see keys at a distance of sliding_window.
    """
    size = integer("sliding_window", default, null=0)

    def read(settings: Settings, layer: int) -> int:
        number = size(settings, layer)
        is_wider = number and not settings.get("is_causal", bool, default=True)
        return number + 1 if is_wider else number

    return read
