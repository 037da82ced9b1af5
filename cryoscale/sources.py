"""What training patches are made of: finished runs, and the labels for what they saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import SourceError
from cryoscale.features.stack import CHANNELS
from cryoscale.grid import Block, Window
from cryoscale.learn.labels import LabelRules, corrected, label_window
from cryoscale.learn.outlines import Outlines, read_outlines
from cryoscale.learn.quality import FLAGS
from cryoscale.learn.sampleset import SampleConfig
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA
from cryoscale.learn.truth import in_zone, open_truth, truth_of
from cryoscale.ledger import Ledger
from cryoscale.region import ZoneRegion
from cryoscale.results import Run
from cryoscale.task import RunContext, run_context
from cryoscale.write.corrections import facts_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

YEARS_APART = 5
"""Outlines further off the imagery are worth a word."""


@dataclass(frozen=True, eq=False)
class MappedRegion:
    """A finished run as a source of patches: what its blocks know, and which of them are done.

    ``without`` are the scenes that the run could not read itself, somewhere.
    """

    number: int
    name: str
    context: RunContext
    identity: str
    work: tuple[tuple[int, Block], ...]
    set_aside: int
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class LabelSource:
    """Where labels come from: outlines with the label rules, or rasters."""

    rules: LabelRules
    glaciers: Outlines | None
    debris: Outlines | None
    corrections: Outlines | None
    truth: Path | None
    resample: bool

    def labels(
        self, region: Any, year: int, window: Window, stack: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels (y, x) of a window; 255 outside the region, and where the zone next door has the pixel.

        And the flags (y, x) "rim" and "outside", of :data:`cryoscale.learn.quality.FLAGS`.
        """
        epsg = window.epsg
        rim = np.zeros(window.shape, bool)
        found: NDArray[np.uint8]
        if self.truth is not None:
            with open_truth(truth_of(self.truth, epsg, year), window, on_lattice=not self.resample) as read:
                found = read(window)
            if (by_hand := self._by_hand(year, epsg)) is not None:
                found = corrected(found, window, by_hand)
        else:
            assert self.glaciers is not None
            assert self.debris is not None  # one of outlines and truth is given
            found, rim = label_window(
                window,
                glaciers=self.glaciers.in_zone(epsg),
                debris=self.debris.in_zone(epsg),
                ndwi=stack[CHANNELS.index("NDWI")],
                ndvi=stack[CHANNELS.index("NDVI")],
                slope_deg=stack[CHANNELS.index("slope")],
                corrections=self._by_hand(year, epsg),
                rules=self.rules,
            )
        inside = ZoneRegion(epsg, region).pixels(window) & in_zone(window)
        flags = np.uint8(FLAGS["rim"]) * rim | np.uint8(FLAGS["outside"]) * ~inside
        return np.where(inside, found, np.uint8(NO_DATA)), flags

    def _by_hand(self, year: int, epsg: int) -> GeoDataFrame | None:
        """The corrections that are about a year, in metres of a zone; None where none were given."""
        if self.corrections is None:
            return None
        return self.corrections.in_zone(epsg)[(self._years == year) | (self._years == 0)]

    @cached_property
    def _years(self) -> NDArray[np.int32]:
        """That each correction is about, 0 for all."""
        assert self.corrections is not None
        return facts_of(self.corrections.frame, CLASS_NAMES, self.corrections.name)[1]

    def record(self) -> dict[str, Any]:
        """For the set's attributes and summary."""
        given = {"outlines": self.glaciers, "debris": self.debris, "corrections": self.corrections}
        told: dict[str, Any] = {n: list(layer.sources) for n, layer in given.items() if layer is not None}
        return told if self.truth is None else {"truth": str(self.truth), "resampled": self.resample, **told}


def open_regions(runs: Sequence[str]) -> list[MappedRegion]:
    """Finished runs as sources of patches, numbered from 0.

    Raises:
        SourceError: no run lies there, it is not finished, or it has no optical scene; or a run is given
            twice.
    """
    regions: list[MappedRegion] = []
    names = [str(Run(out).manifest["name"]) for out in runs]
    for number, (out, name) in enumerate(zip(runs, names, strict=True)):
        if runs.index(out) != number:
            raise SourceError(f"run {out} twice", "each run once", "leave one out")
        manifest, status = Run(out).manifest, Run(out).status()
        if status.done + len(status.set_aside) < status.total or not status.done:
            raise SourceError(
                f"run {out} with {status.done} of {status.total} blocks done",
                "a finished run",
                "complete it with cryoscale run first",
            )
        context = run_context(out, manifest["identity_sha256"])
        done = Ledger(out).done()
        work = tuple(sorted(done))
        without = frozenset(scene for marker in done.values() for scene, _ in marker.scenes_failed)
        if not all(context.items_of(year).get("optical") for year, _ in work):
            raise SourceError(
                f"run {out} without an optical scene", "a run that was mapped from optics", "leave it out"
            )
        unique = name if names.count(name) == 1 else f"{name} ({out})"
        aside = len(status.set_aside)
        identity = manifest["identity_sha256"]
        regions.append(MappedRegion(number, unique, context, identity, work, aside, without))
    return regions


def label_source(config: SampleConfig, regions: Sequence[MappedRegion]) -> LabelSource:
    """The labels that a configuration asks for, checked against the regions.

    Raises:
        InputError: outlines or rasters that cannot serve.
    """
    shapes = [region.context.region for region in regions]
    rules = LabelRules(rim_px=config.rim_px, max_water_slope_deg=config.max_water_slope_deg)
    corrections = None
    if config.corrections:
        corrections = read_outlines(
            config.corrections, "corrections", shapes, layer="corrections", anywhere=True
        )
        # before anything is read, and not when the first of them is burnt
        facts_of(corrections.frame, CLASS_NAMES, f"corrections {config.corrections[0]}")
    if config.truth is not None:
        for region in regions:
            for year, epsg in sorted({(year, block.epsg) for year, block in region.work}):
                window = next(block.window for _, block in region.work if block.epsg == epsg)
                path = truth_of(config.truth, epsg, year)
                with open_truth(path, window, on_lattice=not config.resample):
                    pass  # a raster that cannot serve is told before anything is read
        return LabelSource(rules, None, None, corrections, config.truth, config.resample)
    glaciers = read_outlines(config.outlines, "glacier outlines", shapes)
    debris = read_outlines(config.debris, "debris outlines", shapes, layer="debris")
    return LabelSource(rules, glaciers, debris, corrections, None, config.resample)


def notes_on(regions: Sequence[MappedRegion], labels: LabelSource) -> list[str]:
    """What a person should know before learning from this, a line each."""
    notes = [
        f"{outlines.crossed} of the {outlines.name} cross themselves: what their loops hold "
        "counts by turns as within and without"
        for outlines in (labels.glaciers, labels.debris)
        if outlines is not None and outlines.crossed
    ]
    for region in regions:
        if region.set_aside:
            notes.append(f"{region.name}: {region.set_aside} blocks that the run set aside give no patches")
        years = sorted({year for year, _ in region.work})
        for outlines in (labels.glaciers, labels.debris):
            if outlines is None:
                continue
            if not outlines.meets(region.context.region):
                notes.append(f"{region.name}: none of the {outlines.name} lies in it")
            span = outlines.years
            apart = max((max(abs(year - edge) for edge in span) for year in years), default=0) if span else 0
            if span and apart > YEARS_APART:
                when = f"{span[0]}" if span[0] == span[1] else f"{span[0]} to {span[1]}"
                notes.append(
                    f"{region.name}: {outlines.name} of {when}, up to {apart} years off its imagery of "
                    f"{', '.join(map(str, years))}; see the picture sheet for ice that has gone"
                )
    return notes
