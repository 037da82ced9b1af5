"""What a run has before its first block, all checked first: manifest, frozen catalogue and empty maps."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryoscale.basis import fit_run_basis
from cryoscale.candidates import candidate_blocks
from cryoscale.cluster import Site
from cryoscale.errors import InputError, OutputError
from cryoscale.grid import Block
from cryoscale.ledger import ITEMS, Ledger, Work
from cryoscale.manifest import compose, model_record, refuse_another, require_modalities
from cryoscale.plan import (
    Items,
    block_aligned,
    catalog_record,
    fail_overs,
    find_items,
    of_unknown_baseline,
    reprocessed,
    search_items,
    unmasked,
    without_scene,
    zone_regions,
)
from cryoscale.read import snapshot
from cryoscale.read.catalog import CatalogAnswer
from cryoscale.region import ZoneRegion
from cryoscale.settings import DeriveOn, Settings
from cryoscale.trial import require_precision, try_precisions, try_precisions_there, untried
from cryoscale.write import mosaic, quicklook
from cryoscale.write.mending import mend_metadata

log = logging.getLogger("cryoscale")

OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Draft:
    """A run that is fully checked, and of which nothing is written yet, or which lies there already."""

    settings: Settings
    manifest: Mapping[str, Any]
    items: Items
    zones: Sequence[tuple[ZoneRegion, Collection[Block]]]
    resumes: bool
    anew: bool

    @property
    def blocks(self) -> list[Block]:
        """Those of each year."""
        return [block for _, of_zone in self.zones for block in of_zone]

    @property
    def work(self) -> list[Work]:
        """All blocks of all years."""
        return [(year, block) for year in self.settings.years for block in self.blocks]


def draft_run(settings: Settings, out: str, stage: OnStage | None = None, *, anew: bool = False) -> Draft:
    """Check everything that a run needs, and write nothing.

    Raises:
        InputError: anything the caller has to correct, another run in ``out`` among it.
        IntegrityError: the manifest or the blocks of the run in ``out`` are not what they were.
        CatalogUnavailableError: no catalogue answers.
    """
    ledger, tell = Ledger(out), stage or log.warning
    model = model_record(settings)
    clearing = ledger.is_clearing()
    anew = clearing or (anew and ledger.is_begun())
    if anew and not clearing:
        ledger.refuse_to_clear()
    present = None if anew else ledger.manifest()
    if present is None and not anew:
        ledger.refuse_foreign()
    if present is not None:
        ledger.require_whole_manifest()
        settings = _as_begun(settings, present)
    answers: list[CatalogAnswer] = []
    items = find_items(settings, answers) if present is None else snapshot.thaw(f"{out}/{ITEMS}")
    catalogs = catalog_record(answers)
    told = [*fail_overs(catalogs), *reprocessed(catalogs), *unmasked(items), *of_unknown_baseline(items)]
    for line in [*told, *without_scene(settings, items)]:
        tell(line)
    require_modalities(settings, items)
    planned = ledger.planned(present) if present is not None else None
    zones = _zones(settings, items, planned, tell)
    if (
        present is None
        and model["pca"] is None
        and not {"PCA1", "PCA2", "PCA3"}.isdisjoint(model["channels"])
    ):
        fitted = fit_run_basis(settings, items)
        model["pca"], model["pca_sample"] = fitted.basis.to_dict(), fitted.record()
        for line in fitted.lines():
            tell(line)
    if present is None:
        blocks = [block for _, of_zone in zones for block in of_zone]
        choice = try_precisions(settings, model, items, blocks, tell)
        if choice is not None:
            settings, model["precisions"] = with_precision(settings, choice.precision), choice.to_dict()
        else:  # by name: whoever goes on with the run elsewhere would take auto for something else
            settings = with_precision(settings, untried(settings))
    require_precision(settings)
    manifest = compose(settings, model, snapshot.digest(items), catalogs)
    if present is not None:
        refuse_another(present, manifest, out)
    return Draft(settings, present or manifest, items, zones, present is not None, anew)


def tried_there(draft: Draft, site: Site, tell: OnStage) -> Draft:
    """The draft of a run on a joined cluster, with the precision that a GPU there showed to be best.

    And with channels made there, where that showed to pay.
    """
    model: dict[str, Any] = dict(draft.manifest["model"])
    with site.workers() as found:
        tried = try_precisions_there(found, draft.settings, model, draft.items, draft.blocks, tell)
    if tried is None:
        return draft
    settings, model["precisions"] = with_precision(draft.settings, tried.choice.precision), tried.to_dict()
    if tried.derivation is not None and tried.derivation.pays:
        settings = with_derivation(settings, "device")
    catalogue, catalogs = draft.manifest["identity"]["catalogue"], draft.manifest["catalogs"]
    return replace(draft, settings=settings, manifest=compose(settings, model, catalogue, catalogs))


def _as_begun(settings: Settings, present: dict[str, Any]) -> Settings:
    """Settings with what ``auto`` came to in the run that lies there."""
    identity = present["identity"]
    settings = with_precision(settings, str(identity["precision"]))
    return with_derivation(settings, identity.get("derive_on", "workers"))


def with_precision(settings: Settings, chosen: str) -> Settings:
    """Settings with what ``precision: auto`` came to in this run."""
    if settings.model.precision != "auto":
        return settings
    return replace(settings, model=replace(settings.model, precision=chosen))


def with_derivation(settings: Settings, chosen: DeriveOn) -> Settings:
    """Settings with what ``derive_on: auto`` came to in this run."""
    if settings.model.derive_on != "auto":
        return settings
    return replace(settings, model=replace(settings.model, derive_on=chosen))


def _zones(
    settings: Settings, items: Items, planned: Sequence[Block] | None, tell: OnStage
) -> list[tuple[ZoneRegion, Collection[Block]]]:
    """The zones of the region with their blocks: those that were planned, where a run was begun."""
    zones: list[tuple[ZoneRegion, Collection[Block]]] = []
    for zone in zone_regions(settings):
        if planned is not None:
            zones.append((zone, [block for block in planned if block.epsg == zone.epsg]))
            continue
        chosen = candidate_blocks(settings, items, zone)
        for line in chosen.notes:
            tell(f"candidates: {line}")
        zones.append((zone, chosen.blocks))
    if not any(blocks for _, blocks in zones):
        raise InputError("region and candidates with nothing in common", "a block to map", "check both")
    return zones


def begin(draft: Draft, out: str) -> tuple[str, list[Work]]:
    """Write what begins a run, its manifest last, or what is not there of it yet.

    Returns the digest of the run's identity, and all its blocks.
    """
    ledger, settings = Ledger(out), draft.settings
    work, manifest = draft.work, draft.manifest
    if draft.anew:
        ledger.clear()  # and what others have put beside the run stays
    elif not draft.resumes:
        ledger.refuse_foreign()
    if not draft.resumes:
        if ledger.manifest() is not None:
            raise OutputError(
                f"output {out}, where another command began a run in this moment",
                "one command at a time",
                "start this one again",
            )
        with tempfile.TemporaryDirectory() as folder:
            snapshot.freeze(draft.items, Path(folder) / ITEMS)
            ledger.put_bytes(ITEMS, (Path(folder) / ITEMS).read_bytes())
        context = {**manifest["context"], "blocks": len(work)}
        manifest = {**manifest, "context": context, "blocks_sha256": ledger.plan_blocks(draft.blocks)}
        ledger.begin(manifest)
    for zone, of_zone in draft.zones:
        for year in settings.years if of_zone else ():
            _create_map(settings, out, year, zone, manifest["model"])
    return str(manifest["identity_sha256"]), work


def _create_map(settings: Settings, out: str, year: int, zone: ZoneRegion, model: Mapping[str, Any]) -> None:
    """The empty map of a year and zone, or what describes it mended where it lies there."""
    window = block_aligned(zone.window(), settings.block_px)
    described: dict[str, Any] = {
        "year": year,
        "window": window,
        "block_px": settings.block_px,
        "classes": tuple(model["classes"]),
        "attrs": {"cryoscale:run": settings.name, "cryoscale:confidence": model["confidence"]},
    }
    for key in mend_metadata(f"{out}/mosaic.zarr", **described):
        log.warning("%s of the map was damaged and is mended", key)
    mosaic.create(f"{out}/mosaic.zarr", **described)
    quicklook.create(out, year=year, window=window, block_px=settings.block_px)


def prepare(settings: Settings, out: str, stage: OnStage | None = None) -> tuple[str, list[Work]]:
    """Check everything, then write manifest, frozen catalogue and empty mosaics; or find them there.

    Returns the digest of the run's identity, and all its blocks.
    """
    return begin(draft_run(settings, out, stage), out)


# --- a catalogue that has changed -------------------------------------------------------------------


def look_again(settings: Settings, out: str) -> snapshot.Changes | None:
    """How the catalogues differ by now from what the run in ``out`` froze; None where there is no run.

    Raises:
        InputError: the frozen catalogue or one to search is not there, or the run is of other settings, whose
            scenes are others without any provider's doing.
        CatalogUnavailableError: no catalogue answers.
    """
    present = Ledger(out).manifest()
    if present is None:
        return None
    settings = _as_begun(settings, present)
    catalogue, catalogs = present["identity"]["catalogue"], present.get("catalogs", [])
    # by the run's own model: a look needs no weights, and whoever goes on with the run is held to them
    refuse_another(present, compose(settings, present["model"], catalogue, catalogs), out)
    return snapshot.compare(snapshot.thaw(f"{out}/{ITEMS}"), search_items(settings))


def refuse_to_mix(changes: snapshot.Changes | None, out: str) -> None:
    """One map shall not be made of two catalogues.

    Raises:
        OutputError: something has changed.
    """
    if changes:
        raise OutputError(
            f"output {out}, whose frozen catalogue is no longer what the providers have ({changes})",
            "the catalogue that the run was begun with; nothing was started",
            "give another --out to map what is there now, or leave --refresh out to go on as begun",
        )
