"""The model on a Dask actor: one a GPU, holding its weights once, fed a block at a time.

A block's features travel to the actor once and its bytes come back once; tiles are cut and blended
beside the model. Dask runs the methods of an actor one after the other in a thread of its own, so
nothing here needs a lock. It is called through :mod:`calling`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.errors import ConfigError, OperatorError, WeightsError
from cryoscale.grid import Window
from cryoscale.infer.arrays import ArrayEngine
from cryoscale.infer.encode import Confidence
from cryoscale.infer.gate import Gate
from cryoscale.infer.handover import Handed
from cryoscale.infer.hardware import device_name, is_out_of_memory, let_go_of_memory
from cryoscale.infer.heap import keep_freed_memory
from cryoscale.infer.metrics import show_metrics
from cryoscale.infer.predict import Carried, Mapped, Predict, Tiling, channel_indices, optical_channels
from cryoscale.infer.tiles import window_of_block
from cryoscale.infer.wire import Standard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cryoscale.features.packing import Packed
    from cryoscale.grid import Block
    from cryoscale.infer.device import DeviceEngine

GPU_BATCH = 64
"""Tiles that a GPU sees at once, at most, unless told otherwise."""

BATCH_VARIABLE = "CRYOSCALE_GPU_BATCH"
"""Environment variable that tells otherwise, for a GPU that others share."""


@dataclass
class Work:
    """What an actor has done so far; seconds are of the wall clock."""

    blocks: int = 0
    tiles: int = 0
    tiles_skipped: int = 0
    pixels: int = 0
    memory_retries: int = 0
    load_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0


def load_named(**spec: Any) -> Predict:
    """The predictor of ``spec``: what this process keeps, or what ``cryoscale.models.loading`` loads."""
    from cryoscale.models.loading import at_hand

    predictor: Predict = at_hand(**spec)
    return predictor


class ModelActor:
    """A model that predicts blocks; create with ``client.submit(ModelActor, ..., actor=True)``.

    Args:
        model: keywords of ``load``: ``weights`` or ``name``, ``device``, ``precision``.
        tile_px: edge of a tile.
        overlap: share of a tile that its neighbour covers too, in [0, 1).
        batch: tiles the model sees at once; halved for good when the device's memory is too small.
            None takes ``BATCH_VARIABLE`` or ``GPU_BATCH`` on a GPU, and 1 on a CPU, where more only cost
            memory.
        threads: CPU threads of the model, None for the library's choice. Fixed threads and batch
            make results on CPU repeat to the last bit.
        load: makes the predictor; the default knows all models of cryoscale.
        confidence: what the layer of that name holds, see :class:`cryoscale.infer.encode.Confidence`; by
            entropy it is calibrated where the model has a curve.
        sha256: of the weights that the run was begun with; None takes any.

    Raises:
        ConfigError: if the model cannot take tiles of this size, or ``BATCH_VARIABLE`` is no number.
        WeightsError: if the weights are not those.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        tile_px: int = 256,
        overlap: float = 0.5,
        batch: int | None = None,
        threads: int | None = None,
        load: Callable[..., Predict] = load_named,
        confidence: str = "entropy",
        sha256: str | None = None,
    ) -> None:
        start = time.perf_counter()
        keep_freed_memory()
        self._threads = threads
        self._predictor = load(**model)
        self._refuse_others(sha256)
        self._confidence = Confidence(confidence, getattr(self._predictor, "calibration", None))
        self._on_gpu = str(getattr(self._predictor, "device", "cpu")).startswith("cuda")
        self._tiling = Tiling(tile_px, overlap, batch or (gpu_batch() if self._on_gpu else 1))
        self._refuse_tile()
        self._engine = self._chosen_engine()
        self._work = Work(load_s=time.perf_counter() - start)
        self._ready_at = time.perf_counter()
        self._busy: tuple[float, float | None] = (0.0, None)
        self._gate = Gate(busy_since=lambda: self._busy[1])
        show_metrics(self)

    def predict(
        self,
        features: NDArray[np.float32] | Packed,
        row: int,
        col: int,
        block: Block | Window,
        channels: tuple[str, ...] | None = None,
        ticket: int | None = None,
    ) -> dict[str, NDArray[np.uint8]]:
        """``probability`` (k, y, x), ``label``, ``confidence``, ``disagreement`` (y, x) of ``block``, u1.

        Args:
            features: (c, h, w) float32, physical units, NaN = missing; or as :meth:`wire` allows; or the
                numbers (p, h, w) that the model's channels are made of, beside it.
            row: world row of the first row of ``features``.
            col: world column of its first column.
            block: the pixels to map, in the zone of the features.
            channels: names of the features' channels; by default they are the model's.
            ticket: from :meth:`admit`, given back at the end.

        Raises:
            WeightsError: if the model wants channels that are not there.
            OperatorError: if memory does not suffice for one tile, or the model's answer is misfit.
        """
        done_s, start = self._busy[0], time.perf_counter()
        # One assignment, since whoever asks in this moment does so on another thread.
        self._busy = (done_s, start)
        with self._place_of(ticket):
            self._pin_threads()
            try:
                done = self._predict(features, (row, col), window_of_block(block), channels)
            finally:
                self._busy = (done_s + time.perf_counter() - start, None)
        self._work.blocks += 1
        self._work.tiles += done.tiles
        self._work.tiles_skipped += done.tiles_skipped
        self._work.pixels += done.bands["label"].size
        return done.bands

    def serve(self, *arguments: Any) -> tuple[dict[str, NDArray[np.uint8]], float]:
        """As :meth:`predict`, and how long it took: of the GPU by the clock, on a CPU of the processor.

        The features may be told by where they lie, see :mod:`handover`. The last argument is the recipe of
        numbers, or None; the place of the ticket before it is given back whatever comes of them.
        """
        tell = time.perf_counter if self._on_gpu else time.thread_time
        start = tell()
        sent, *place, ticket, recipe = arguments
        with self._place_of(ticket):
            features = sent.taken() if isinstance(sent, Handed) else sent
            if recipe is not None:
                from cryoscale.features.packing import Packed  # which the recipe has imported

                features = Packed(features, recipe)
            bands = self.predict(features, *place)
        return bands, tell() - start

    def stats(self) -> dict[str, float]:
        """The work done so far: blocks, tiles, pixels, seconds loading, busy and idle.

        Busy seconds run on during a block, which may take minutes on a CPU.
        """
        (done_s, since), now = self._busy, time.perf_counter()
        busy_s = done_s + (now - since if since is not None else 0.0)
        return asdict(replace(self._work, busy_s=busy_s, idle_s=now - self._ready_at - busy_s))

    def describe(self) -> dict[str, Any]:
        """What the model says of itself, and the device, library, tiling and threads it runs with."""
        torch = sys.modules.get("torch")
        of_model: dict[str, Any] = getattr(self._predictor, "describe", dict)()
        return of_model | {
            "device_name": device_name(getattr(self._predictor, "device", "cpu")),
            "torch": None if torch is None else str(torch.__version__),
            "tile_px": self._tiling.tile_px,
            "overlap": self._tiling.overlap,
            "batch": self._tiling.batch,
            "threads": self._threads,
            "tiles_on_device": not isinstance(self._engine, ArrayEngine),
        }

    async def probe(self) -> bool:
        """True. Answers between blocks and during one: coroutines run beside the actor's thread."""
        return True

    async def admit(self) -> int:
        """A ticket for :meth:`predict`, once the process has room for one more block."""
        return await self._gate.enter()

    async def wire(self) -> Standard | None:
        """Mean and deviation of the channels where features may come as of :mod:`wire`, None where not."""
        return self._engine.wire

    async def reaches(self, handed: Handed) -> bool:
        """Whether the memory of whoever asks can be mapped from here."""
        try:
            handed.taken()
        except OSError:
            return False
        return True

    async def progress(self) -> dict[str, float]:
        """As :meth:`stats`, and the most blocks that were in this process at once; during a block too."""
        return {**self.stats(), "most_blocks": float(self._gate.most)}

    @contextmanager
    def _place_of(self, ticket: int | None) -> Iterator[None]:
        """Keeps the place of a block that has come, and gives it back at the end."""
        if ticket is None:
            yield
            return
        self._gate.arrive(ticket)
        try:
            yield
        finally:
            self._gate.leave(ticket)

    def _predict(
        self,
        features: NDArray[np.float32] | Packed,
        origin: tuple[int, int],
        window: Window,
        channels: tuple[str, ...] | None,
    ) -> Mapped:
        """Predict ``window``; start over with half the batch as often as memory runs out."""
        wanted = getattr(self._predictor, "channels", None)
        array: NDArray[Any]
        if isinstance(features, np.ndarray):
            array, recipe, count = features, None, len(features)
        else:
            array, recipe = features.numbers, features.recipe
            channels, count = recipe.channels, len(recipe.channels)
        optical = optical_channels(channels or wanted, count)
        taken = channel_indices(channels, wanted, count)
        extent = Window(window.epsg, *origin, *array.shape[1:])
        carried = Carried(array, extent, taken or range(count), optical, recipe)
        while True:
            try:
                return self._engine.predict(carried, window)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self._tiling.batch == 1:
                    size = self._tiling.tile_px
                    raise OperatorError(
                        f"no memory on the device for one tile of {size} px: {error}"
                    ) from error
            # Outside the handler, whose traceback would keep the failed batch's memory alive.
            self._halve_batch()

    def _chosen_engine(self) -> ArrayEngine | DeviceEngine:
        """By arrays, or what keeps a block's tiles on the device where the model wants that."""
        if not getattr(self._predictor, "on_device", False):
            return ArrayEngine(self._predictor, self._tiling, self._confidence)
        from cryoscale.infer.device import DeviceEngine

        model: Any = self._predictor
        return DeviceEngine(model, self._tiling, self._confidence)

    def _halve_batch(self) -> None:
        self._tiling = replace(self._tiling, batch=self._tiling.batch // 2)
        self._work.memory_retries += 1
        self._engine.shrink_to(self._tiling.batch)
        let_go_of_memory()

    def _refuse_tile(self) -> None:
        """Say at the start, and not at every block, that the network cannot take tiles of this size."""
        multiple, size = getattr(self._predictor, "tile_multiple", 1), self._tiling.tile_px
        if size % multiple:
            raise ConfigError(
                f"tile_px {size}", f"a multiple of {multiple} for this model", "choose another tile_px"
            )

    def _refuse_others(self, sha256: str | None) -> None:
        """No map is made of two models: weights may be replaced where they lie while a run is under way."""
        described: dict[str, Any] = getattr(self._predictor, "describe", dict)()
        found = described.get("sha256")
        if sha256 is not None and found is not None and found != sha256:
            raise WeightsError(
                f"weights with sha256 {found[:12]}...",
                f"{sha256[:12]}..., with which the run was begun",
                "put those back, or give another --out",
            )

    def _pin_threads(self) -> None:
        """Fix torch's threads in the calling thread: OpenMP keeps their number for each thread apart."""
        torch = sys.modules.get("torch")
        if torch is not None and self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)


def gpu_batch() -> int:
    """Tiles a batch on a GPU, as :data:`BATCH_VARIABLE` says where others use it too.

    Raises:
        ConfigError: if that is no number.
    """
    told = os.environ.get(BATCH_VARIABLE, str(GPU_BATCH))
    if not told.isdecimal() or int(told) < 1:
        given = f"{BATCH_VARIABLE}={told}"
        raise ConfigError(given, "a number of tiles, 1 or more", "correct the environment, or leave it out")
    return int(told)
