"""The rows of a block on their way to a device, where they become the canvas that tiles are cut from.

Features travel in strips of rows: each is copied into page-locked memory and sent on a stream of its own,
standardised there once, and laid into the canvas. Of numbers (:mod:`cryoscale.features.packing`) a strip's
channels are made there first (:mod:`derive`); the rows that they look at are sent once, and stay until the
block is done.

The arithmetic of 2,500 tiles/s at 50 % overlap: 46 Mpixel/s are 5.5 GB/s of float32, 2.8 as of :mod:`wire`,
or 1.7 of numbers; PCI Express 5 carries some 50, and a host core copies some 10 into page-locked memory: half
of the time that the network takes, a quarter or a sixth, hence the overlap. The first batch of 64 waits for
640 of the 2304 rows of a block, which is all of the copying that is not hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cryoscale.grid import Window, location_code
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.infer.wire import NARROW

if TYPE_CHECKING:
    from cryoscale.infer.derive import Deriver
    from cryoscale.infer.predict import Carried, Tiling

STRIP_ROWS = 64
"""Rows of features a copy: at 2304 pixels of 30 channels 18 MB, which page-locked memory holds twice."""

_BUFFERS = 2


class Upload:
    """The rows of one block on their way, and where its tiles lie.

    Args:
        standard: mean and deviation (c, 1, 1) of the channels, on the device.
        features: in host memory.
        window: the pixels to map.
        tiling: the lattice.
        like: tiles (n, s, s, c or more) as the network takes them.
        stream: where copies go, beside the current stream of a device that has streams; or None.

    Attributes:
        rows, cols: origins of the tiles that touch the window, world pixels.
        hull: of all of these tiles.
        valid: mask (y, x) of the window's pixels to map, as far as rows were sent.
        codes: location codes (rows, cols, 4), once they were sent.
    """

    def __init__(
        self,
        standard: tuple[Tensor, Tensor],
        features: Carried,
        window: Window,
        tiling: Tiling,
        like: Tensor,
        stream: Any,
    ) -> None:
        self._features, self._window, self._size = features, window, tiling.tile_px
        self._derive = _deriver(features, like.device)
        self._halo = 0 if self._derive is None else self._derive.halo_px
        self._device, self._standard = like.device, standard
        self._stride = stride = stride_px(tiling.tile_px, tiling.overlap)
        self.rows = tile_origins(window.row, window.row + window.height, tiling.tile_px, stride)
        self.cols = tile_origins(window.col, window.col + window.width, tiling.tile_px, stride)
        self.hull = read_window(window, tiling.tile_px, tiling.overlap)
        self._common = self.hull.intersect(features.extent.pad(-self._halo))
        # Zero is the training mean: what a model sees where features end or are missing. As many channels as
        # tiles have: what a network wants filled up is zero here already, and rows are copied as they lie.
        shape = (*self.hull.shape, like.shape[-1])
        self._canvas = torch.zeros(shape, dtype=like.dtype, device=self._device)
        self.valid = torch.zeros(window.shape, dtype=torch.bool, device=self._device)
        more = [channel for channel in features.optical if channel not in features.taken]
        self._laid = [*features.taken, *more]
        at = [self._laid.index(channel) for channel in features.optical]
        self._optical = torch.tensor(at, device=self._device)
        self._sent: Sequence[int] = self._laid if self._derive is None else range(len(features.array))
        self._numbers: Tensor | None = None
        if self._derive is not None and self._common is not None:
            around = self._common.pad(self._halo)
            self._numbers = torch.empty(
                (len(self._sent), *around.shape), dtype=torch.int16, device=self._device
            )
        self._next = self._common.row if self._common else 0
        self._read = self._next - self._halo
        self._strip_rows = STRIP_ROWS if self._derive is None else self._derive.strip_rows
        self._stream = stream
        self._buffers: list[tuple[Tensor, Any]] = []
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self._device))
        # torch has few steps for unsigned numbers of 16 bits, and the bits are those of signed ones
        self._narrow = features.array.dtype == NARROW
        self._array = features.array.view(np.int16) if self._narrow else features.array
        self._host = torch.int16 if self._narrow else torch.float32
        self._number = 0
        self.codes: Tensor | None = None

    def send_codes(self) -> None:
        """The location codes (rows, cols, 4) of all tiles, for a network that takes them."""
        places = [[self.tile(row, col) for col in range(len(self.cols))] for row in range(len(self.rows))]
        codes = np.array([[location_code(place) for place in line] for line in places], np.float32)
        self.codes = torch.from_numpy(codes).to(self._device)

    def tile(self, row: int, col: int) -> Window:
        """World pixels of the tile at (row, col) of the lattice, counted from 0."""
        return Window(self.hull.epsg, self.rows[row], self.cols[col], self._size, self._size)

    def cut(self, row: int, cols: slice) -> Tensor:
        """Tiles (n, s, s, c) side by side as the network takes them, whose rows have been awaited."""
        top = self.rows[row] - self.hull.row
        strip = self._canvas[top : top + self._size].unfold(1, self._size, self._stride)
        return strip[:, cols].permute(1, 0, 3, 2)

    def lattice_rows(self) -> Iterator[tuple[int, list[int], int]]:
        """Row by row of the lattice, its features sent: its number, the columns with data, of how many.

        A tile without a valid pixel of the window would only add to pixels that are no data anyway.
        """
        window = self._window
        for number, row in enumerate(self.rows):
            self._send_until(row + self._size)
            part = slice(max(row - window.row, 0), row + self._size - window.row)
            with self._aside():
                there = self.valid[part].any(dim=0).cpu().numpy()
            chosen = [
                at
                for at, col in enumerate(self.cols)
                if there[max(col - window.col, 0) : col + self._size - window.col].any()
            ]
            yield number, chosen, len(self.cols)

    def await_rows(self) -> None:
        """What is computed from here on starts after the rows that have been sent so far."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def settle(self) -> None:
        """Wait for all that is under way on the device."""
        if self._stream is not None:
            torch.cuda.synchronize(self._device)

    def _send_until(self, row: int) -> None:
        if self._common is None:
            return
        bottom = self._common.row + self._common.height
        while self._next < min(row, bottom):
            height = min(self._strip_rows, bottom - self._next)
            self._send(replace(self._common, row=self._next, height=height))
            self._next += height

    def _send(self, strip: Window) -> None:
        """Send the rows of a strip that are not there yet, and lay its channels into the canvas."""
        around = strip.pad(self._halo)
        new = replace(around, row=self._read, height=around.row + around.height - self._read)
        rows, cols = new.slices_in(self._features.extent)
        staged = self._staged(new)
        target = staged.numpy()
        for number, channel in enumerate(self._sent):
            np.copyto(target[number], self._array[channel, rows, cols])
        with self._aside():
            there = staged.to(self._device, non_blocking=True)
            if self._stream is not None:
                self._buffers[self._number % _BUFFERS][1].record(self._stream)
            self._lay(there if self._derive is None else self._derived(there, new, strip), strip)
        self._number += 1
        self._read += new.height

    def _derived(self, there: Tensor, new: Window, strip: Window) -> Tensor:
        """The channels (c, h, w) of a strip, of the numbers that are there by now."""
        assert self._numbers is not None
        assert self._derive is not None
        assert self._common is not None
        around = self._common.pad(self._halo)
        self._numbers[(slice(None), *new.slices_in(around))] = there
        found = self._derive(self._numbers[(slice(None), *strip.pad(self._halo).slices_in(around))])
        return found[self._laid]

    def _staged(self, strip: Window) -> Tensor:
        """Host memory (c, h, w) that the device no longer reads; page-locked for a GPU."""
        shape = (len(self._sent), *strip.shape)
        if self._stream is None:
            return torch.empty(shape, dtype=self._host)
        if len(self._buffers) < _BUFFERS:
            most = (self._strip_rows + 2 * self._halo) * shape[0] * shape[2]
            whole = torch.empty(most, dtype=self._host, pin_memory=True)
            self._buffers.append((whole, torch.cuda.Event()))
        whole, read = self._buffers[self._number % _BUFFERS]
        read.synchronize()
        return whole[: shape[0] * shape[1] * shape[2]].view(shape)

    def _lay(self, strip: Tensor, at: Window) -> None:
        """Put a strip (c, h, w) that is on the device into the canvas and the mask."""
        mean, std = self._standard
        if self._narrow and self._derive is None:  # standardised before it was sent
            strip = strip.view(torch.bfloat16)
            x = strip[: len(mean)]
        else:
            x = (strip[: len(mean)] - mean) / std
        x = torch.where(torch.isfinite(x), x, 0.0)
        rows, cols = at.slices_in(self.hull)
        self._canvas[rows, cols, : len(x)] = x.permute(1, 2, 0).to(self._canvas.dtype)
        own = at.intersect(self._window)
        if own is not None:
            finite = torch.isfinite(strip.index_select(0, self._optical)).all(dim=0)
            self.valid[own.slices_in(self._window)] = finite[own.slices_in(at)]

    def _aside(self) -> AbstractContextManager[Any]:
        """The stream of copies, where the device has streams."""
        if self._stream is None:
            return nullcontext()
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context


def _deriver(features: Carried, device: torch.device) -> Deriver | None:
    """What makes channels of numbers; only where there are some it is imported, and numba with it."""
    if features.recipe is None:
        return None
    from cryoscale.infer.derive import Deriver

    return Deriver(features.recipe, device)
