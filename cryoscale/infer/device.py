"""A block from features in host memory to bytes in host memory, all between on the model's device.

Rows travel in strips (:mod:`upload`), and a batch runs as soon as those of its tiles are on their way, so
that all but the first are copied while the device computes, and only the bytes of the map come back.

It answers as :func:`predict.predict_window` and :func:`encode.encode` do, which are its oracle: equal to
rounding, of a byte at most by one level. What only a GPU shows is in tests/unit/test_device_cuda.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cryoscale.errors import OperatorError
from cryoscale.grid import Window
from cryoscale.infer.merge import Merger
from cryoscale.infer.predict import Carried, Mapped
from cryoscale.infer.tiles import stride_px, tile_origins
from cryoscale.infer.upload import Upload

if TYPE_CHECKING:
    from cryoscale.infer.encode import Confidence
    from cryoscale.infer.predict import Tiling
    from cryoscale.infer.wire import Standard


class ServesTiles(Protocol):
    """A model whose network can be run on tensors, as :class:`cryoscale.models.predictor.Predictor`."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes it answers with."""

    @property
    def standard(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (c, 1, 1) of the channels, on the device."""

    @property
    def network(self) -> Any:
        """Its network; ``dtype`` is what its features are rounded to."""

    def serve(self, batch: int, tile_px: int) -> Any:
        """Batches of one shape: ``tiles`` (n, s, s, c or more), ``codes`` (n, 4) or None, ``run()``."""


class DeviceEngine:
    """Maps windows by a model on its device, in batches of one shape.

    Args:
        model: the model.
        tiling: the lattice, and the tiles a batch.
        confidence: what the layer of that name holds.

    Attributes:
        wire: mean and deviation of the channels, where features may come as of :func:`wire.narrow`.
    """

    def __init__(self, model: ServesTiles, tiling: Tiling, confidence: Confidence) -> None:
        self.tiling = tiling
        self._model, self._confidence = model, confidence
        self._served: Any = None
        self._stream: Any = None
        self.wire: Standard | None = None
        if model.network.dtype == torch.bfloat16:
            mean, std = (of.flatten().tolist() for of in model.standard)
            self.wire = mean, std

    def shrink_to(self, batch: int) -> None:
        """From now on so many tiles at once; what a batch needed so far is let go."""
        self._served = None
        self.tiling = replace(self.tiling, batch=batch)

    def predict(self, features: Carried, window: Window) -> Mapped:
        """The bands of ``window``, as :func:`encode.encode` names them.

        Raises:
            OperatorError: if an answer is not finite on a valid pixel.
            torch.OutOfMemoryError: if the device has no room for a batch, or for the block.
        """
        with torch.inference_mode(), _on(self._model.device):
            size = even_batch(window, self.tiling)
            if self._served is None or len(self._served.tiles) < size:
                self._served = None  # its memory first
                self._served = self._model.serve(size, self.tiling.tile_px)
            if self._stream is None and _has_streams(self._model.device):
                # of high priority: its short steps must not queue behind the network's long ones; one for all
                # blocks, since torch keeps memory that was used on one stream for that stream
                self._stream = torch.cuda.Stream(self._model.device, priority=-1)
            like = self._served.tiles
            upload = Upload(self._model.standard, features, window, self.tiling, like, self._stream)
            try:
                return self._predict(upload, window)
            finally:
                # memory must not be handed on while a stream still writes to it, after an error as well
                upload.settle()

    def _predict(self, upload: Upload, window: Window) -> Mapped:
        batch = len(self._served.tiles)
        if self._served.codes is not None:
            upload.send_codes()
        merger = Merger(window, self.tiling, len(self._model.classes), upload.valid, self._confidence)
        waiting: list[tuple[int, int]] = []
        done = touching = 0
        for row, cols, all_cols in upload.lattice_rows():
            touching += all_cols
            waiting += [(row, col) for col in cols]
            while len(waiting) >= batch:
                self._run(waiting[:batch], upload, merger)
                del waiting[:batch]
                done += batch
        if waiting:
            self._run(waiting, upload, merger)
            done += len(waiting)
        upload.await_rows()
        bands, misfit = merger.result()
        host = {name: _to_host(band) for name, band in bands.items()}
        upload.settle()
        if bool(misfit):
            raise OperatorError(f"the model's probabilities are not finite on valid pixels of {window}")
        return Mapped({name: band.numpy() for name, band in host.items()}, done, touching - done)

    def _run(self, chosen: Sequence[tuple[int, int]], upload: Upload, merger: Merger) -> None:
        """Predict a batch, which may not be full: its last slots keep whatever they held."""
        served = self._served
        upload.await_rows()
        runs = list(_runs(chosen))
        for slots, row, cols in runs:
            served.tiles[slots] = upload.cut(row, cols)
            if upload.codes is not None:
                served.codes[slots] = upload.codes[row, cols]
        answers = served.run()
        for slots, row, cols in runs:
            merger.put(row, cols.start, answers[slots])


def even_batch(window: Window, tiling: Tiling) -> int:
    """Tiles a batch, such that those of a whole window fill its batches evenly.

    A batch has one shape: the 289 tiles of a block of 2048 pixels would be five batches of 64, the last of
    them with 31 idle slots, and are five of 58 with one.
    """
    stride = stride_px(tiling.tile_px, tiling.overlap)
    tiles = 1
    for first, extent in ((window.row, window.height), (window.col, window.width)):
        tiles *= len(tile_origins(first, first + extent, tiling.tile_px, stride))
    return -(-tiles // -(-tiles // tiling.batch))


def _runs(chosen: Sequence[tuple[int, int]]) -> Iterator[tuple[slice, int, slice]]:
    """Slots of a batch whose tiles lie side by side: they, their row of the lattice, and its columns.

    One copy for many tiles, and no index that would have to be sent.
    """
    start = 0
    for slot in range(1, len(chosen) + 1):
        (row, col), run = chosen[start], slot - start
        if slot == len(chosen) or chosen[slot] != (row, col + run):
            yield slice(start, slot), row, slice(col, col + run)
            start = slot


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """In the body that GPU is the current one: what names none, as Triton's kernels do, runs there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _has_streams(device: torch.device) -> bool:
    return device.type == "cuda"


def _to_host(band: Tensor) -> Tensor:
    """The band in host memory once the device has settled; page-locked, which torch keeps for later."""
    if not _has_streams(band.device):
        return band
    there = torch.empty(band.shape, dtype=band.dtype, pin_memory=True)
    return there.copy_(band, non_blocking=True)
