"""Patches from simulated ranges, along the very path that a run takes.

Each range is published as a STAC catalogue, searched, read window by window with the features' halo and
stacked by the code that serves a run, so that training and serving cannot drift apart. It takes two
passes: the inputs of every range are read once and kept on disk, the PCA basis is fitted on the
training ranges, and then the stacks are made with it and cut.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
class _Scene:
    """The inputs of one zone of one range, on disk, halo included, and its truth on the zone's window."""

    inputs: Path
    truth: NDArray[np.uint8]
    window: Window
    seed: int
    composite: str
    split: str


def from_simulation(
    config: SimulationConfig, out: Path, *, progress: Progress | None = None, basis: PcaBasis | None = None
) -> Patches:
    """Makes the patch set of a configuration at ``out``, or opens it where it lies ready.

    ``basis`` is that of weights which the patches are to fine-tune; by default one is fitted to the
    training ranges.

    Raises:
        OutputError: if ``out`` holds the patches of another configuration.
    """
    ready = _ready(config, out)
    if ready is not None:
        return ready
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    seeds = [
        (seed, split, config.composites[number % len(config.composites) if split == "train" else 0], regime)
        for split in splits
        for number, (seed, regime) in enumerate(
            zip(getattr(config, f"{split}_seeds"), cycle(config.regimes.get(split, ("himalaya",))))
        )
    ]
    with tempfile.TemporaryDirectory(prefix="cryoscale-ranges-") as folder:
        scenes: list[_Scene] = []
        for done, (seed, split, composite, regime) in enumerate(seeds):
            if progress:
                progress({"kind": "region", "region": seed, "done": done, "regions": len(seeds)})
            scenes += _read_range(seed, split, composite, (config.size, regime), Path(folder))
        basis = basis or fit_pca(_clear_pixels([scene for scene in scenes if scene.split == "train"]))
        writer = PatchWriter(out, channels=CHANNELS, patch_px=config.patch_px, dtype=config.dtype)
        for done, scene in enumerate(scenes):
            if progress:
                progress({"kind": "cut", "region": scene.seed, "done": done, "regions": len(scenes)})
            _cut_scene(scene, basis, config, writer)
    if config.split == "random":
        held = writer.indices("train", "validation")
        writer.reassign(held, random_split(len(held), fraction=config.random_fraction, seed=0))
    return writer.finish(
        pca=basis.to_dict(),
        split=_describe_split(config),
        source={"kind": "simulated ranges", "year": YEAR, **config.model_dump(mode="json")},
        fingerprint=config.fingerprint,
    )


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


def _read_range(seed: int, split: str, composite: str, kind: tuple[str, str], folder: Path) -> list[_Scene]:
    """Simulates and publishes one range of this size and regime, and reads the inputs of its zones."""
    from cryoscale.read.inputs import read_inputs
    from cryoscale.simulate.catalog import publish
    from cryoscale.simulate.regime import regime_named
    from cryoscale.simulate.terrain import make_range

    scenes = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made = make_range(seed, kind[0], regime=regime_named(kind[1]))
        published = publish(made, place, years=[YEAR])
        items = search_range(Path(place), published.bbox_deg)
        for epsg in published.epsgs:
            window, truth = whole_truth(published.truth(epsg))
            inputs, _ = read_inputs(
                items,
                window.pad(HALO_PX),
                composite=cast(Any, composite),
                velocity_href=str(published.velocity),
                year=YEAR,
            )
            path = folder / f"{seed}-{epsg}.zarr"
            inputs.to_zarr(path, mode="w", consolidated=False)
            scenes.append(_Scene(path, truth, window, seed, composite, split))
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


def _clear_pixels(scenes: Sequence[_Scene]) -> Iterator[NDArray[np.float32]]:
    for scene in scenes:
        with xr.open_zarr(scene.inputs, consolidated=False, mask_and_scale=False) as inputs:
            yield from sample_clear_pixels(inputs, sample_px=PCA_SAMPLE_PX, seed=scene.seed)


def _cut_scene(scene: _Scene, basis: PcaBasis, config: SimulationConfig, writer: PatchWriter) -> None:
    with xr.open_zarr(scene.inputs, consolidated=False, mask_and_scale=False) as inputs:
        stack = build_stack(inputs.load(), pca=basis)
    outer = window_of(stack, scene.window.epsg)
    rows, cols = scene.window.slices_in(outer)
    # Validation and test patches do not overlap: every pixel counts once in a score.
    stride_px = config.stride_px if scene.split == "train" else config.patch_px
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
            region=scene.seed,
            composite=scene.composite,
            split=scene.split,
            year=YEAR,
        )
        writer.add(x, y, place)


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
