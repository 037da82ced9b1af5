"""A Zarr store behind HTTP, read with the patience and the signing of rasters."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import WrapperStore

from cryoscale.read import http
from cryoscale.read.remote import fetch_signed
from cryoscale.read.signing import signed_href

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

_ABSENT = (404, 410)


class HttpStore(Store):
    """The keys below an http(s) address, for reading; it cannot be listed.

    What is not there (404) is an absent key, as Zarr wants it for chunks that were never written. Everything
    else that does not come is an error, never a fill value.

    Args:
        href: of the store's root; a query, such as a token of the user's own, goes with every key.
        sign: how addresses are signed.
    """

    def __init__(self, href: str, sign: str | None = None) -> None:
        super().__init__(read_only=True)
        self.href, self.sign = href, sign
        self.patience = http.assets()
        self.ends_s = time.monotonic() + self.patience.deadline_s

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HttpStore) and (self.href, self.sign) == (other.href, other.sign)

    def __str__(self) -> str:
        return self.href.split("?", 1)[0]

    def _address(self, key: str) -> str:
        parts = urlsplit(self.href)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{key}"))

    def _ask(self, key: str, span: dict[str, str]) -> http.Answer | None:
        where = self._address(key)

        def signed(refused: str | None) -> str:
            return signed_href(where, self.sign, refused=refused, insists=self.patience.insists)

        try:
            asked = http.Request(signed(None), headers={"Accept-Encoding": "identity", **span})
            return fetch_signed(asked, self.patience, self.ends_s, signed)
        except http.HttpError as error:
            if error.status in _ABSENT:
                return None
            raise http.HttpError(f"{key}: {error}", error.status, unasked=error.unasked) from error

    def _bytes(self, key: str, part: ByteRequest | None) -> bytes | None:
        """A key, or ``part`` of it in as many answers as the server makes of it."""
        answer = self._ask(key, _span(part))
        if answer is None:
            return None
        if answer.status == 200:
            first, stop = _bounds(part, len(answer.data))
            return answer.data[first:stop]
        start, total = _content_range(key, answer)
        first, stop = _bounds(part, total)
        data = answer.data
        while start == first and data and first + len(data) < stop:
            more = self._ask(key, {"Range": f"bytes={first + len(data)}-{stop - 1}"})
            if more is None or _content_range(key, more) != (first + len(data), total):
                break
            data += more.data
        if part is None or start != first or len(data) != stop - first:
            raise http.HttpError(f"{key}: the answer is not the range that was asked for", answer.status)
        return data

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a key or of a part of it, None where there is none."""
        data = await asyncio.to_thread(self._bytes, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several parts, side by side."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether the key is there."""
        return await asyncio.to_thread(self._ask, key, {"Range": "bytes=0-0"}) is not None

    @property
    def supports_writes(self) -> bool:
        """No."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No."""
        return False

    @property
    def supports_listing(self) -> bool:
        """No: a web server has no folders."""
        return False

    async def set(self, key: str, value: Buffer) -> None:
        """Not possible."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Not possible."""
        self._check_writable()

    def list(self) -> AsyncIterator[str]:
        """Not possible."""
        raise NotImplementedError

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Not possible."""
        raise NotImplementedError

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Not possible."""
        raise NotImplementedError


_DESCRIPTIONS = (".zarray", ".zattrs", "zarr.json")


class CountedStore(WrapperStore[Store]):
    """A store that adds up the bytes of the chunks that it gives.

    Args:
        store: where they come from.
        given: bytes by array; shared by the copies that Zarr makes of a store.
    """

    def __init__(self, store: Store, given: dict[str, int] | None = None) -> None:
        super().__init__(store)
        self.given: dict[str, int] = {} if given is None else given

    def _with_store(self, store: Store) -> CountedStore:
        return type(self)(store, self.given)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a key or of a part of it, None where there is none."""
        found = await super().get(key, prototype, byte_range)
        array, _, place = key.partition("/")
        if found is not None and place and place not in _DESCRIPTIONS:
            self.given[array] = self.given.get(array, 0) + len(found)
        return found


def _span(part: Any) -> dict[str, str]:
    if isinstance(part, RangeByteRequest):
        return {"Range": f"bytes={part.start}-{part.end - 1}"}
    if isinstance(part, OffsetByteRequest):
        return {"Range": f"bytes={part.offset}-"}
    if isinstance(part, SuffixByteRequest):
        return {"Range": f"bytes=-{part.suffix}"}
    return {}


def _bounds(part: Any, total: int) -> tuple[int, int]:
    """First byte of ``part`` of ``total`` bytes, and the one after its last."""
    if isinstance(part, RangeByteRequest):
        return part.start, min(part.end, total)
    if isinstance(part, OffsetByteRequest):
        return part.offset, total
    if isinstance(part, SuffixByteRequest):
        return max(total - part.suffix, 0), total
    return 0, total


def _content_range(key: str, answer: http.Answer) -> tuple[int, int]:
    """First byte of an answer and the size of all, from RFC 9110's Content-Range."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.header("content-range"))
    if found is None or len(answer.data) != int(found[2]) - int(found[1]) + 1:
        raise http.HttpError(f"{key}: the answer is not the range that was asked for", answer.status)
    return int(found[1]), int(found[3])
