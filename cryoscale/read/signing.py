"""Signing addresses at the moment of reading, since tokens live for minutes only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pystac import Item

SIGN_FIELD = "cryoscale:sign"
"""Where an item remembers how its catalogue signs; a frozen catalogue keeps it."""

SIGNERS = ("planetary-computer",)


def signed_href(href: str, sign: str | None) -> str:
    """``href`` as it can be opened now; unchanged without ``sign``.

    Raises:
        ValueError: for a way of signing that is not known.
    """
    if sign is None:
        return href
    if sign not in SIGNERS:
        raise ValueError(f"sign is {sign!r}, expected one of {', '.join(SIGNERS)}")
    if not href.startswith("https://"):
        return href
    import planetary_computer  # imported late: it is slow, and most catalogues need no signature

    return str(planetary_computer.sign_url(href))


def sign_of(item: Item, default: str | None) -> str | None:
    """How the addresses of ``item`` are signed: as its catalogue says, else ``default``."""
    sign = item.extra_fields.get(SIGN_FIELD, default)
    return None if sign is None else str(sign)
