"""Rules for which layers have a sliding window, and which attend to all keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_models.checkpoint.families.settings import integer

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Rule, Settings

__all__ = ["FULL", "SLIDING", "after", "every", "listed", "window"]

FULL = "full_attention"
SLIDING = "sliding_attention"


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
    """Make a rule for sliding_window; null means no window."""
    return integer("sliding_window", default, null=0)
