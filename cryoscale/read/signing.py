"""Signing addresses at the moment of reading, since tokens live for minutes only."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cryoscale.errors import AssetReadError, HostDownError
from cryoscale.read.hosts import HOSTS

if TYPE_CHECKING:
    from pystac import Item

SIGN_FIELD = "cryoscale:sign"
"""Where an item remembers how its catalogue signs; a frozen catalogue keeps it."""

Signer = Callable[[str, bool], str]
"""Takes an address, and whether whatever is cached shall be passed over; gives one that opens now."""

TOKEN_DEADLINE_S = 120.0
"""How long a token may take; planetary-computer itself waits without end."""

_lock = threading.Lock()


def _planetary_computer(href: str, fresh: bool) -> str:
    """Through the provider's library, whose cache of tokens is emptied first for a fresh one."""
    import planetary_computer  # imported late: it is slow, and most catalogues need no signature
    from planetary_computer.sas import TOKEN_CACHE

    if fresh:
        TOKEN_CACHE.clear()
    signed: list[str] = []
    failed: list[Exception] = []

    def ask() -> None:
        try:
            signed.append(str(planetary_computer.sign_url(href)))
        except Exception as error:  # carried over to the thread that waits
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="sign")
    thread.start()
    thread.join(TOKEN_DEADLINE_S)
    if failed:
        raise AssetReadError(f"no token: {type(failed[0]).__name__}") from failed[0]
    if not signed:
        raise AssetReadError(f"no token within {TOKEN_DEADLINE_S:.0f} s")
    return signed[0]


SIGNERS: dict[str, Signer] = {"planetary-computer": _planetary_computer}
"""Ways of signing by the name that a catalogue's entry gives; others may be added."""


def signed_href(href: str, sign: str | None, *, refused: str | None = None, insists: bool = False) -> str:
    """``href`` as it can be opened now; unchanged without ``sign``, and where it is not http(s).

    Args:
        href: the address as its item gives it.
        sign: name of the way of signing.
        refused: a signed address that the host no longer takes. If what is cached gives the same,
            it is signed past the caches, once for all the threads that were refused.
        insists: whether a signer that is taken for down is asked all the same, as for hosts
            (:mod:`cryoscale.read.hosts`).

    Raises:
        ValueError: if ``sign`` is not known.
        AssetReadError: if no signature is to be had for now.
    """
    if sign is None:
        return href
    if sign not in SIGNERS:
        raise ValueError(f"sign is {sign!r}, expected one of {', '.join(sorted(SIGNERS))}")
    if not href.startswith(("https://", "http://")):
        return href
    signer = f"the signer {sign}"
    with _lock:
        down = HOSTS.refusal(signer, insist=insists)
        if down is not None and not insists:
            raise HostDownError(down)
        try:
            signed = SIGNERS[sign](href, False)
            signed = SIGNERS[sign](href, True) if signed == refused else signed
        except Exception as error:
            HOSTS.gave_up(signer, str(error), None)
            raise
        HOSTS.answered(signer)
        return signed


def sign_of(item: Item, default: str | None) -> str | None:
    """How the addresses of ``item`` are signed: as its catalogue says, else ``default``."""
    sign = item.extra_fields.get(SIGN_FIELD, default)
    return None if sign is None else str(sign)


def public(href: str) -> str:
    """The address without its query, which may hold a token, and without a log-in before its host."""
    return re.sub(r"(?<=://)[^/@]*@", "", href.split("?", 1)[0])
