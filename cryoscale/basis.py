"""The principal components of a run whose model brings none, fitted on a sample of its region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from cryoscale.errors import AssetReadError, InputError
from cryoscale.features import stack as features
from cryoscale.features.stack import PcaBasis, fit_pca
from cryoscale.grid import Block, Window
from cryoscale.plan import Items, blocks_of, zone_regions
from cryoscale.read.inputs import ReadReport, read_inputs
from cryoscale.read.raster import UnreadableError
from cryoscale.region import ZoneRegion
from cryoscale.settings import Settings
from cryoscale.task import ATTEMPTS, RunContext

_SAMPLE_BLOCKS = 12
_SAMPLE_PX = 256
_SAMPLE_PIXELS = 65_536
_SEED = 20


def context_of(settings: Settings, out: str, items: Items, pca: PcaBasis | None) -> RunContext:
    """The context of blocks that want features alone."""
    velocity, thermal = settings.sources.get("velocity"), settings.sources.get("thermal")
    return RunContext(
        out=out,
        region=settings.region,
        tile_px=settings.tile_px,
        overlap=settings.model.overlap,
        on_missing=settings.on_missing,
        composite=settings.sources["optical"].composite or "least_snow",
        velocity_href=velocity.href if velocity else None,
        channels=features.CHANNELS,
        needs_halo=False,
        pca=pca,
        items=items,
        on_unreadable=settings.on_unreadable,
        max_lst_uncertainty_k=thermal.max_uncertainty_k if thermal else None,
        max_cloud_pct=settings.sources["optical"].max_cloud_pct,
        loader=settings.loader,
    )


@dataclass(frozen=True)
class RunBasis:
    """A basis that was fitted for a run, and what its sample had to do without.

    Attributes:
        basis: the principal components.
        scenes_failed: (item id, cause) of scenes that the sample was taken without.
        windows_failed: (year/zone/window, cause) of windows of the sample that could not be read.
    """

    basis: PcaBasis
    scenes_failed: tuple[tuple[str, str], ...] = ()
    windows_failed: tuple[tuple[str, str], ...] = ()

    def record(self) -> dict[str, Any]:
        """For the run's record: the basis without its gaps is stored where the model looks for it."""
        return {
            "scenes_failed": [list(scene) for scene in self.scenes_failed],
            "windows_failed": [list(window) for window in self.windows_failed],
        }

    def lines(self) -> list[str]:
        """A line a gap, for people."""
        return [
            f"principal components fitted without {name}: {cause}"
            for name, cause in (*self.scenes_failed, *self.windows_failed)
        ]


def fit_run_basis(settings: Settings, items: Items) -> RunBasis:
    """The PCA basis of a run whose model brings none: fitted on a seeded sample of clear pixels.

    Its windows are those of a lattice of the world: the size of the run's blocks moves no pixel of it.

    Raises:
        InputError: no window of the sample holds a clear pixel.
    """
    context = context_of(settings, "", items, None)
    windows = replace(settings, block_px=_SAMPLE_PX)
    return fit_basis(
        [
            (context, year, window)
            for year in settings.years
            for zone in zone_regions(settings)
            for window in blocks_of(windows, zone)
        ]
    )


def fit_basis(work: Sequence[tuple[RunContext, int, Block]]) -> RunBasis:
    """The PCA basis of a seeded sample of the clear pixels of blocks, each with its run and year.

    The sample is drawn from windows in the middle of at most a dozen blocks, so that its cost does
    not grow with the region. Its scenes are read as those of a block are, with as many attempts and
    by the same ``on_unreadable``; where a block would be set aside, the sample does without its window.

    Raises:
        InputError: no window of the sample holds a clear pixel, or could be read.
    """
    rng = np.random.default_rng(_SEED)
    chosen = [work[n] for n in sorted(rng.permutation(len(work))[:_SAMPLE_BLOCKS])]
    scenes: set[tuple[str, str]] = set()
    windows: list[tuple[str, str]] = []

    def batches() -> Iterator[np.ndarray]:
        for context, year, block in chosen:
            try:
                inputs, report = _optical_of(context, year, _middle(block, context.region))
            except (AssetReadError, UnreadableError) as error:
                windows.append((f"{year}/{block.epsg}/{block.key}", " ".join(str(error).split())))
                continue
            scenes.update(report.scenes_failed)
            if not set(features.BANDS) <= set(inputs):
                continue
            bands = np.stack([inputs[name].values.ravel() for name in features.BANDS], axis=1)
            clear = bands[np.isfinite(bands).all(axis=1)]
            take = _SAMPLE_PIXELS // len(chosen)
            yield clear if len(clear) <= take else clear[rng.choice(len(clear), take, replace=False)]

    try:
        basis = fit_pca(batches(), seed=_SEED)
    except InputError as error:
        if not windows:
            raise
        raise InputError(
            f"{len(windows)} of {len(chosen)} sample windows that could not be read ({windows[0][1]})",
            "readable optical scenes to fit the principal components on",
            "mend the source, or start again later",
        ) from error
    return RunBasis(basis, tuple(sorted(scenes)), tuple(windows))


def _optical_of(context: RunContext, year: int, window: Window) -> tuple[xr.Dataset, ReadReport]:
    """The optical inputs of ``window``, with as many attempts as a block has."""
    optical = {"optical": context.items_of(year).get("optical", [])}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read_inputs(
                optical,
                window,
                composite=context.composite,
                on_unreadable=context.on_unreadable,
                leave_unreachable=attempt == ATTEMPTS,
                max_cloud_pct=context.max_cloud_pct,
                loader=context.loader,
            )
        except AssetReadError:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _middle(block: Block, region: Any) -> Window:
    """A window in the middle of what the block and the region have in common."""
    part = ZoneRegion(block.epsg, region).window().intersect(block.window) or block.window
    height, width = min(_SAMPLE_PX, part.height), min(_SAMPLE_PX, part.width)
    row, col = part.row + (part.height - height) // 2, part.col + (part.width - width) // 2
    return Window(block.epsg, row, col, height, width)
