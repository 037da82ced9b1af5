"""Names in any script on a picture: in a font that has their letters, or the place instead."""

from __future__ import annotations

import re
from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

_OWN = "DejaVu Sans"
"""Matplotlib's, which it brings along."""
_NONE = "Last Resort"
"""Begins the name of a font that has a box for every letter."""


@lru_cache(maxsize=32)
def families_for(text: str) -> tuple[str, ...] | None:
    """Font families that together have all letters of a text, matplotlib's own first; None where none do."""
    missing = _absent(text)
    if not missing:
        return (_OWN,)
    for font in fontManager.ttflist:
        if not font.name.startswith(_NONE) and missing <= _letters(font.fname):
            return _OWN, font.name
    return None


def lettered(text: str, instead: str) -> tuple[str, FontProperties]:
    """A text as it can be drawn, and its font; ``instead`` stands for words whose letters no font has."""
    families = families_for(text)
    if families is not None:
        return text, FontProperties(family=list(families))
    absent = re.escape("".join(map(chr, _absent(text))))
    drawn = re.sub(rf"[^\s,]*[{absent}](?:.*[{absent}])?[^\s,]*", instead, text)
    return drawn, FontProperties(family=_OWN)


def _absent(text: str) -> set[int]:
    return {ord(letter) for letter in text if not letter.isspace()} - _letters(findfont(_OWN))


@lru_cache(maxsize=256)
def _letters(path: str) -> frozenset[int]:
    return frozenset(get_font(path).get_charmap())
