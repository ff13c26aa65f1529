"""Finds fonts for the letters that matplotlib's own font lacks."""

from __future__ import annotations

import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib import font_manager

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["families", "fonts_for", "ignoring_missing_glyphs"]

_CJK = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_CJK_FAMILIES = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK KR"),
    *("Noto Sans SC", "Noto Sans JP", "Noto Sans TC", "Noto Sans KR", "Source Han Sans SC"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Unifont"),
    *("PingFang SC", "PingFang HK", "Hiragino Sans", "Hiragino Sans GB", "Heiti TC", "STHeiti"),
    *("Microsoft YaHei", "Microsoft JhengHei", "SimHei", "SimSun", "Yu Gothic", "Meiryo"),
    *("MS Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "NanumGothic", "IPAexGothic"),
    *("IPAGothic", "TakaoGothic", "UnDotum", "Arial Unicode MS"),
)
"""Fonts of Linux, macOS and Windows with Chinese, Japanese or Korean letters; the widest first."""


def families(texts: Iterable[str], available: Collection[str]) -> list[str]:
    """Return the fonts in which to look for letters after the usual one.

    ``available``: the names of the machine's fonts. Several are returned, because a Korean font
    lacks Chinese letters, and the other way round.
    """
    if not any(_CJK.search(text) for text in texts):
        return []
    return [family for family in _CJK_FAMILIES if family in available]


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Let texts that are made within this context have fonts for these letters, if there are any.

    Each letter that the first font lacks is taken from the next one that has it.
    """
    available = {font.name for font in font_manager.fontManager.ttflist}
    usual = mpl.rcParams["font.family"]
    with mpl.rc_context({"font.family": [*usual, *families(texts, available)]}):
        yield


@contextmanager
def ignoring_missing_glyphs() -> Iterator[None]:
    """Draw a letter that no font has as a box, without a warning: tokens may be in any script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
