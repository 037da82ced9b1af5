"""The ways to map a scene, each in a process of its own: ``python -m benchmarks.peers.routes JOB``.

All run the same network in float32 on as many threads, and standardise and fill tile by tile; they differ in
how tiles are cut, joined and kept. TerraTorch: https://terrastackai.github.io/terratorch, module
``terratorch.tasks.tiled_inference``. torchgeo: https://torchgeo.readthedocs.io/en/stable/api/samplers.html;
it leaves the joining of chips to its user, for which the plain average stands here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peak import take_peak_mib
from benchmarks.peers.scene import TIFF, Scene, open_scene
from cryoscale.bench.actor import blended
from cryoscale.grid import RESOLUTION_M, Window
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.encode import encode_share
from cryoscale.infer.tiles import read_window, stride_px
from cryoscale.models import baselines
from cryoscale.models.loading import load_predictor

_KEPT = "probability", "label"


@dataclass(frozen=True)
class Job:
    """One way over one scene; folders and files by their paths."""

    route: str
    scene: str
    weights: str
    out: str
    tile_px: int
    overlap: float
    block_px: int
    threads: int

    @property
    def stride_px(self) -> int:
        """Distance of neighbouring tiles."""
        return stride_px(self.tile_px, self.overlap)


@dataclass(frozen=True)
class Map:
    """Probability (k, y, x), float32 or encoded, label (y, x) u1, and the tiles that were predicted."""

    probability: NDArray[Any]
    label: NDArray[np.uint8]
    tiles: int


Run = Callable[[Scene], Map]


@dataclass(frozen=True)
class Route:
    """A way: what loads it, the module it needs, pixels that it cuts off each tile, what to know of it."""

    load: Callable[[Job], Run]
    needs: str | None = None
    trim_px: int = 0
    note: str = ""

    @property
    def there(self) -> bool:
        """Whether what it needs is installed."""
        return self.needs is None or find_spec(self.needs) is not None


# --- cryoscale ------------------------------------------------------------------------------------


def at_once(job: Job) -> Run:
    """The whole scene as one window."""
    actor = _actor(job)

    def run(scene: Scene) -> Map:
        before = actor.stats()["tiles"]
        features, extent = scene.read(scene.window)
        bands = actor.predict(features, extent.row, extent.col, scene.window)
        return Map(bands["probability"], bands["label"], int(actor.stats()["tiles"] - before))

    return run


def by_blocks(job: Job) -> Run:
    """Block after block, each read with its halo and put on disk, as a run does it."""
    actor = _actor(job)

    out = Path(job.out)

    def one(scene: Scene, block: Window) -> None:  # a function, so that no block outlives its turn
        features, extent = scene.read(read_window(block, job.tile_px, job.overlap))
        bands = actor.predict(features, extent.row, extent.col, block)
        for name in _KEPT:
            if (block.row, block.col) == (scene.window.row, scene.window.col):
                shape = (*bands[name].shape[:-2], *scene.window.shape)
                np.lib.format.open_memmap(out / f"{name}.npy", "w+", np.uint8, shape)
            # mapped anew for each block, or the pages written so far would count as memory
            file = np.load(out / f"{name}.npy", mmap_mode="r+")
            file[(..., *block.slices_in(scene.window))] = bands[name]

    def run(scene: Scene) -> Map:
        before = actor.stats()["tiles"]
        for block in blocks(scene.window, job.block_px):
            one(scene, block)
        probability, label = (np.load(out / f"{name}.npy", mmap_mode="r") for name in _KEPT)
        return Map(probability, label, int(actor.stats()["tiles"] - before))

    return run


def blocks(window: Window, block_px: int) -> list[Window]:
    """Squares that cover a window whose corner is a block's, row by row; the last ones are cut."""
    rows = range(window.row, window.row + window.height, block_px)
    cols = range(window.col, window.col + window.width, block_px)
    squares = [Window(window.epsg, row, col, block_px, block_px) for row in rows for col in cols]
    return [part for square in squares if (part := square.intersect(window)) is not None]


def _actor(job: Job) -> ModelActor:
    model = {"weights": job.weights, "device": "cpu", "precision": "fp32"}
    return ModelActor(model, tile_px=job.tile_px, overlap=job.overlap, threads=job.threads)


# --- others ---------------------------------------------------------------------------------------


class Network:
    """Tiles (n, c, h, w), NaN = missing, to probabilities, as a notebook writes it; counts its tiles."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        predictor = load_predictor(weights=job.weights, device="cpu", precision="fp32")
        self._model, card = predictor.model, predictor.card  # type: ignore[attr-defined]
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
        self._temperature = card.temperature
        self.tiles = 0

    def __call__(self, tiles: Tensor) -> Tensor:
        self.tiles += len(tiles)
        with torch.inference_mode():
            standard = torch.nan_to_num((tiles - self._mean) / self._std, 0.0, 0.0, 0.0)
            return torch.softmax(self._model(standard) / self._temperature, 1)


def notebook(job: Job) -> Run:
    """The scene in memory, Hann-weighted sums in numpy, the last tiles flush with the scene's rim."""
    network = Network(job)

    def run(scene: Scene) -> Map:
        network.tiles = 0
        features = scene.read(scene.window)[0]
        rows, cols = (flush(size, job.tile_px, job.stride_px) for size in features.shape[1:])
        mean = blended(
            lambda cut: network(torch.from_numpy(cut)).numpy(),
            features,
            [(row, col) for row in rows for col in cols],
            job.tile_px,
            batch=1,
        )
        return Map(mean, mean.argmax(axis=0).astype(np.uint8), network.tiles)

    return run


def flush(size_px: int, tile_px: int, stride: int) -> list[int]:
    """Origins of tiles along an axis, none of which reaches beyond it: the last one ends with it."""
    return [*range(0, size_px - tile_px, stride), size_px - tile_px]


def terratorch(job: Job, batch: int = 1) -> Run:
    """``tiled_inference`` over the scene in memory, crop and stride as told, else its defaults."""
    baselines.library()  # makes torchvision importable beside a CPU build of torch
    from terratorch.tasks.tiled_inference import tiled_inference

    network = Network(job)

    def run(scene: Scene) -> Map:
        network.tiles = 0
        image = torch.from_numpy(scene.read(scene.window)[0])[None]
        mean = tiled_inference(network, image, crop=job.tile_px, stride=job.stride_px, batch_size=batch)
        return Map(mean[0].numpy(), mean[0].argmax(0).to(torch.uint8).numpy(), network.tiles)

    return run


def terratorch_in_batches(job: Job) -> Run:
    """The same with its own batch."""
    return terratorch(job, batch=16)


def torchgeo(job: Job) -> Run:
    """Chips of a ``GridGeoSampler`` read from a GeoTIFF, averaged where they overlap."""
    baselines.library()
    from shapely.geometry import box
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    network = Network(job)
    dataset = RasterDataset(str(Path(job.scene) / TIFF))

    def run(scene: Scene) -> Map:
        network.tiles = 0
        sampler = GridGeoSampler(dataset, job.tile_px, job.stride_px, roi=box(*scene.window.bounds_m))
        sums, total = None, np.zeros(scene.window.shape, np.float32)
        for sample in DataLoader(dataset, batch_size=1, sampler=sampler, collate_fn=stack_samples):
            answer = network(sample["image"])[0].numpy()
            x, y, _ = sample["bounds"][0]
            corner = round(-y.stop / RESOLUTION_M), round(x.start / RESOLUTION_M)
            chip = Window(scene.window.epsg, *corner, *answer.shape[1:])
            # the grid grows from the lower left, and its last chips may reach beyond the scene
            part = chip.intersect(scene.window)
            if sums is None:
                sums = np.zeros((len(answer), *total.shape), np.float32)
            if part is not None:
                at = part.slices_in(scene.window)
                sums[(..., *at)] += answer[(..., *part.slices_in(chip))]
                total[at] += 1
        assert sums is not None
        sums /= total
        return Map(sums, sums.argmax(axis=0).astype(np.uint8), network.tiles)

    return run


ROUTES = {
    "cryoscale, blocks": Route(by_blocks, note="tiles of the world's lattice, blocks to disk"),
    "cryoscale, at once": Route(at_once, note="tiles of the world's lattice, one block"),
    "notebook's loop": Route(notebook, note="scene and sums in memory"),
    "TerraTorch": Route(terratorch, "terratorch", 8, "tiled_inference, tile after tile"),
    "TerraTorch, batch 16": Route(terratorch_in_batches, "terratorch", 8, "its default batch"),
    "torchgeo": Route(torchgeo, "torchgeo", note="GridGeoSampler on a GeoTIFF, plain average"),
}


def measure(job: Job) -> dict[str, Any]:
    """Seconds and memory of one way, its map put under ``job.out``; in a process that does nothing else.

    Memory in MiB: ``loaded_mib`` with libraries and network loaded, ``peak_mib`` the peak above that.
    """
    torch.set_num_threads(job.threads)
    run, scene = ROUTES[job.route].load(job), open_scene(Path(job.scene))
    take_peak_mib()
    loaded = take_peak_mib()
    run(scene.corner(2 * job.tile_px))  # what compiles or allocates once does so now
    begun, begun_cpu = time.perf_counter(), time.process_time()
    found = run(scene)
    took, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    peak = take_peak_mib()
    _keep(found, Path(job.out))
    return {
        "tiles": found.tiles,
        "seconds": round(took, 3),
        "cpu_s": round(cpu, 3),
        "mpx_s": float(f"{scene.window.height * scene.window.width / took / 1e6:.4g}"),
        "loaded_mib": loaded,
        "peak_mib": round(peak - loaded, 1),
    }


def _keep(found: Map, out: Path) -> None:
    for name, array in zip(_KEPT, (found.probability, found.label), strict=True):
        if not isinstance(array, np.memmap):  # that one lies there already
            encoded = array if array.dtype == np.uint8 else encode_share(array)
            np.save(out / f"{name}.npy", encoded)


def main(arguments: Sequence[str]) -> None:
    """Measure the job, given as JSON, and print what came out as JSON."""
    print(json.dumps(measure(Job(**json.loads(arguments[0])))))


if __name__ == "__main__":
    main(sys.argv[1:])
