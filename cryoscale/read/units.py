"""Units of velocity as stores and items spell them."""

from __future__ import annotations

import re

_METRES = {"km": 1e3, "kilometer": 1e3, "m": 1.0, "meter": 1.0, "cm": 1e-2, "centimeter": 1e-2, "mm": 1e-3}
_A_YEAR = {
    **dict.fromkeys(("y", "yr", "year", "a", "annum"), 1.0),
    **dict.fromkeys(("d", "day"), 365.25),
    **dict.fromkeys(("h", "hr", "hour"), 365.25 * 24),
    **dict.fromkeys(("s", "sec", "second"), 365.25 * 86_400),
}
_UNIT = re.compile(
    r"([a-z]+)\s*(?:/|\bper\b)\s*([a-z]+)|([a-z]+)[\s.*]+([a-z]+)\s*\^?\s*\*{0,2}-1", re.IGNORECASE
)
"""``meter/year``, ``m per day`` or ``m yr-1``."""

_PLAIN = str.maketrans(
    {"⁻": "-", "\N{MINUS SIGN}": "-", "¹": "1", "·": ".", "_": " ", **dict.fromkeys("[](){}", "")}
)
"""Signs that typographers and LaTeX put in the place of plain ones."""


def metres_per_year(units: str) -> float | None:
    """What a velocity is multiplied by to be m/yr; 1 where no units are given, None where they are none."""
    plain = units.translate(_PLAIN).strip()
    if not plain:
        return 1.0
    match = _UNIT.fullmatch(plain)
    length, time = (match[1] or match[3], match[2] or match[4]) if match else ("", "")
    factor = _METRES.get(_singular(length), 0.0) * _A_YEAR.get(_singular(time), 0.0)
    return factor or None


def _singular(word: str) -> str:
    word = word.lower().replace("metre", "meter")
    return word.removesuffix("s") if len(word) > 2 else word
