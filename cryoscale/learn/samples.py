"""Patches from simulated ranges, along the very path that a run takes.

Each range is published as a STAC catalogue, searched, read window by window with the features' halo and
stacked by the code that serves a run, so that training and serving cannot drift apart. It takes two
passes: the inputs of every range are read once and kept on disk, the PCA basis is fitted on the
training ranges, and then the stacks are made with it and cut. Several processes may share both passes; one
writes, in the order of the ranges, so that their number does not show.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoscale.errors import OutputError, SourceError
from cryoscale.features.stack import (
    BANDS,
    CHANNELS,
    HALO_PX,
    PcaBasis,
    build_stack,
    fit_pca,
    sample_clear_pixels,
)
from cryoscale.grid import Window, window_of
from cryoscale.learn.patches import Patches, PatchWriter, Place
from cryoscale.learn.recipe import SimulationConfig
from cryoscale.learn.scores import NO_DATA
from cryoscale.learn.splits import random_split
from cryoscale.learn.truth import whole_truth
from cryoscale.room import full_disk_told

Progress = Callable[[dict[str, Any]], None]

YEAR = 2018
"""Season that the training ranges are simulated and searched for."""

COLLECTIONS = {
    "optical": "sentinel-2-l2a",
    "terrain": "cop-dem-glo-30",
    "thermal": "landsat-c2-l2",
    "insar": "sentinel-1-slc-pair",
}

MAX_CLOUD_PCT = 60.0
"""As a run's configuration has it unless told otherwise."""

PCA_SAMPLE_PX = 65_536
"""Clear pixels of each window that the PCA basis is fitted on."""


@dataclass(frozen=True)
class _Range:
    """A range to be simulated, and what its patches are for."""

    seed: int
    split: str
    composite: str
    size: str
    regime: str


@dataclass(frozen=True)
class _Scene:
    """The inputs of one zone of one range, on disk, halo included, and its truth on the zone's window.

    ``clear`` are batches (n,b) of a sample of its clear pixels, where the PCA basis is to be fitted to them.
    """

    inputs: Path
    truth: NDArray[np.uint8]
    window: Window
    place: _Range
    clear: tuple[NDArray[np.float32], ...]


_Cut = tuple[NDArray[np.float32], NDArray[np.uint8], Place]


def from_simulation(
    config: SimulationConfig,
    out: Path,
    *,
    progress: Progress | None = None,
    basis: PcaBasis | None = None,
    processes: int = 1,
) -> Patches:
    """Makes the patch set of a configuration at ``out``, or opens it where it lies ready.

    ``basis`` is that of weights which the patches are to fine-tune; by default one is fitted to the
    training ranges. More ``processes`` give the same set to the bit; each takes a core and some 1.5 GB.

    Raises:
        OutputError: if ``out`` holds the patches of another configuration.
        NoRoomError: if its disk is full, or that of temporary files, where the ranges lie meanwhile.
        SourceError: if a process was killed, as for want of memory.
    """
    ready = _ready(config, out)
    if ready is not None:
        return ready
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    ranges = [
        _Range(
            seed,
            split,
            config.composites[number % len(config.composites) if split == "train" else 0],
            config.size,
            regime,
        )
        for split in splits
        for number, (seed, regime) in enumerate(
            zip(getattr(config, f"{split}_seeds"), cycle(config.regimes.get(split, ("himalaya",))))
        )
    ]
    scratch = tempfile.gettempdir()
    with (
        tempfile.TemporaryDirectory(prefix="cryoscale-ranges-", dir=scratch) as folder,
        full_disk_told(scratch, "make room there, or name a larger disk by TMPDIR, and start again"),
        _mapping(processes) as each,
    ):
        scenes: list[_Scene] = []
        found = each(partial(_read_range, folder=Path(folder), sampled=basis is None), ranges)
        for done, place in enumerate(ranges):
            if progress:
                progress({"kind": "region", "region": place.seed, "done": done, "regions": len(ranges)})
            scenes += next(found)
        basis = basis or fit_pca(batch for scene in scenes for batch in scene.clear)
        writer = PatchWriter(out, channels=CHANNELS, patch_px=config.patch_px, dtype=config.dtype)
        if processes == 1:
            patches = map(partial(_cut_scene, basis=basis, config=config), scenes)
        else:
            patches = map(_read_back, each(partial(_cut_to_files, basis=basis, config=config), scenes))
        for done, scene in enumerate(scenes):
            if progress:
                progress({"kind": "cut", "region": scene.place.seed, "done": done, "regions": len(scenes)})
            for x, y, where in next(patches):
                writer.add(x, y, where)
    if config.split == "random":
        held = writer.indices("train", "validation")
        writer.reassign(held, random_split(len(held), fraction=config.random_fraction, seed=0))
    return writer.finish(
        pca=basis.to_dict(),
        split=_describe_split(config),
        source={"kind": "simulated ranges", "year": YEAR, **config.model_dump(mode="json")},
        fingerprint=config.fingerprint,
    )


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]]:
    """A ``map`` that keeps the order: of this process, when asked for each, or of several, ahead of that.

    Raises:
        SourceError: if one of several was killed.
    """
    if processes == 1:
        yield map
        return
    # Not forked: threads of zarr and GDAL run here, and a forked child may wait for their locks for ever.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool.map
        except BrokenProcessPool:
            given = f"{processes} processes that make patches, one of which was killed"
            raise SourceError(given, "memory for all of them", "take fewer processes") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _ready(config: SimulationConfig, out: Path) -> Patches | None:
    try:
        patches = Patches.open(out)
    except SourceError:
        return None  # absent or interrupted: it is made (anew)
    if patches.attrs.get("fingerprint") != config.fingerprint:
        do = "remove it, or choose another work folder"
        raise OutputError(f"patches {out} of other settings", "the patches of this recipe", do)
    return patches


def _describe_split(config: SimulationConfig) -> str:
    if config.split == "random":
        return f"random {config.random_fraction:.0%} of the patches held back; neighbours leak"
    return (
        f"blocked by range: trained on seeds {_seeds(config.train_seeds)}, best epoch and temperature by "
        f"{_seeds(config.validation_seeds)}, tested on {_seeds(config.test_seeds) or 'none'}"
    )


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _read_range(place: _Range, folder: Path, sampled: bool) -> list[_Scene]:
    """Simulates and publishes a range, and reads its zones' inputs; ``sampled`` if they are to train on."""
    from cryoscale.read.inputs import read_inputs
    from cryoscale.simulate.catalog import publish
    from cryoscale.simulate.regime import regime_named
    from cryoscale.simulate.terrain import make_range

    scenes = []
    with tempfile.TemporaryDirectory(dir=folder) as home:
        made = make_range(place.seed, place.size, regime=regime_named(place.regime))
        published = publish(made, home, years=[YEAR])
        items = search_range(Path(home), published.bbox_deg)
        for epsg in published.epsgs:
            window, truth = whole_truth(published.truth(epsg))
            inputs, _ = read_inputs(
                items,
                window.pad(HALO_PX),
                composite=cast(Any, place.composite),
                velocity_href=str(published.velocity),
                year=YEAR,
            )
            path = folder / f"{place.seed}-{epsg}.zarr"
            inputs.to_zarr(path, mode="w", consolidated=False)
            clear = _clear_pixels(path, place.seed) if sampled and place.split == "train" else ()
            scenes.append(_Scene(path, truth, window, place, clear))
    return scenes


def search_range(folder: Path, bbox_deg: tuple[float, float, float, float]) -> dict[str, list[Any]]:
    """The items of every modality, found as a run finds them."""
    from cryoscale.read import catalog

    found = {}
    for modality, collection in COLLECTIONS.items():
        found[modality] = catalog.search(
            [{"url": str(folder)}],
            collection=collection,
            bbox=bbox_deg,
            datetime=None if modality == "terrain" else f"{YEAR}-01-01/{YEAR}-12-31",
            max_cloud_pct=MAX_CLOUD_PCT if modality == "optical" else None,
        )
    return found


def _clear_pixels(path: Path, seed: int) -> tuple[NDArray[np.float32], ...]:
    with xr.open_zarr(path, consolidated=False, mask_and_scale=False) as inputs:
        return tuple(sample_clear_pixels(inputs, sample_px=PCA_SAMPLE_PX, seed=seed))


def _cut_scene(scene: _Scene, basis: PcaBasis, config: SimulationConfig) -> Iterator[_Cut]:
    """Stack (c,p,p), labels (p,p) and place of every patch of a scene."""
    with xr.open_zarr(scene.inputs, consolidated=False, mask_and_scale=False) as inputs:
        stack = build_stack(inputs.load(), pca=basis)
    outer = window_of(stack, scene.window.epsg)
    rows, cols = scene.window.slices_in(outer)
    # Validation and test patches do not overlap: every pixel counts once in a score.
    stride_px = config.stride_px if scene.place.split == "train" else config.patch_px
    cut = cut_patches(
        stack.values[:, rows, cols],
        scene.truth,
        patch_px=config.patch_px,
        stride_px=stride_px,
        min_labelled=config.min_labelled,
    )
    for row, col, x, y in cut:
        place = Place(
            epsg=scene.window.epsg,
            row=scene.window.row + row,
            col=scene.window.col + col,
            region=scene.place.seed,
            composite=scene.place.composite,
            split=scene.place.split,
            year=YEAR,
        )
        yield x, y, place


def _cut_to_files(scene: _Scene, basis: PcaBasis, config: SimulationConfig) -> list[tuple[Path, Place]]:
    """The patches of a scene in files, for the process that writes: in memory all would wait for it."""
    found = []
    for number, (x, y, place) in enumerate(_cut_scene(scene, basis, config)):
        path = scene.inputs.with_name(f"{scene.inputs.stem}-{number}.npz")
        np.savez(path, x=x, y=y)
        found.append((path, place))
    return found


def _read_back(found: list[tuple[Path, Place]]) -> Iterator[_Cut]:
    for path, place in found:
        with np.load(path, allow_pickle=False) as file:
            yield file["x"], file["y"], place
        path.unlink()


def cut_patches(
    stack: NDArray[np.float32],
    truth: NDArray[np.uint8],
    *,
    patch_px: int,
    stride_px: int,
    min_labelled: float,
) -> Iterator[tuple[int, int, NDArray[np.float32], NDArray[np.uint8]]]:
    """Row, column, stack (c,p,p) and labels (p,p) of the patches of a stack (c,y,x) with truth (y,x).

    Patches lie at multiples of the stride; one that reaches over the rim is filled with NaN and 255, as a
    tile of a run is. Pixels without all optical bands are 255 too, since a run has no data there. A
    patch with a share of labelled pixels below ``min_labelled`` is left out.
    """
    optics = np.isfinite(stack[: len(BANDS)]).all(axis=0)
    known = np.where(optics, truth, np.uint8(NO_DATA))
    height, width = known.shape
    for row in range(0, max(height - patch_px + stride_px, 1), stride_px):
        for col in range(0, max(width - patch_px + stride_px, 1), stride_px):
            x = np.full((len(stack), patch_px, patch_px), np.nan, np.float32)
            y = np.full((patch_px, patch_px), NO_DATA, np.uint8)
            here = (slice(row, row + patch_px), slice(col, col + patch_px))
            part = known[here]
            y[: part.shape[0], : part.shape[1]] = part
            if (y != NO_DATA).mean() < max(min_labelled, 1 / y.size):
                continue
            x[:, : part.shape[0], : part.shape[1]] = stack[:, *here]
            yield row, col, x, y
