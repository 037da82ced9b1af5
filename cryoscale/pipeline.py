"""A run: prepared, driven over its blocks, and finished with its map, outlines and report.

Killed at any moment, it leaves a folder that the same command completes.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shapely.geometry.base import BaseGeometry

from cryoscale import lease, slices
from cryoscale.candidates import candidate_blocks
from cryoscale.cluster import Site, Workers, require_dashboard, require_reachable
from cryoscale.drive import Driver
from cryoscale.errors import (
    ClusterLostError,
    DrivenError,
    InputError,
    OutputError,
    SliceDrivenError,
    StoppedError,
)
from cryoscale.featurise import fit_run_basis
from cryoscale.finish import finish
from cryoscale.grid import Block
from cryoscale.ledger import ITEMS, Ledger, Work
from cryoscale.manifest import compose, model_record, refuse_another, require_modalities
from cryoscale.outcome import OnProgress, Outcome, Watch
from cryoscale.plan import (
    Items,
    block_aligned,
    catalog_record,
    fail_overs,
    find_items,
    search_items,
    unmasked,
    zone_regions,
)
from cryoscale.read import snapshot
from cryoscale.read.catalog import CatalogAnswer
from cryoscale.region import ZoneRegion
from cryoscale.resume import forget, sound
from cryoscale.room import room
from cryoscale.session import OnEvent, Session, View, telling
from cryoscale.settings import Settings
from cryoscale.slices import Division, Slice
from cryoscale.trial import require_precision, try_precisions
from cryoscale.verify import seal
from cryoscale.write import mosaic, quicklook
from cryoscale.write.mending import mend_metadata
from cryoscale.write.objects import require_usable

log = logging.getLogger("cryoscale")

RELAUNCHES = 5
"""How often one command starts or joins a cluster anew that was lost under it."""

OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Again:
    """How to meet a run that lies there already.

    Attributes:
        new_run: begin anew in its place; all that it made is deleted.
        redo: do the blocks again that this region (degrees) meets.
        retry_set_aside: try the blocks again that were set aside.
    """

    new_run: bool = False
    redo: BaseGeometry | None = None
    retry_set_aside: bool = False


def run(
    settings: Settings,
    out: str,
    *,
    again: Again = Again(),
    part: Slice | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    on_event: OnEvent = lambda name, facts: None,
    stop: threading.Event | None = None,
    view: View | None = None,
) -> Outcome:
    """Map the region of ``settings`` into ``out``, or complete the run that lies there; or ``part`` of it.

    Raises:
        InputError: anything the caller has to correct; nothing is written in that case.
        UnfinishedError: it was stopped, or its cluster is gone; the same call goes on.
        NoRoomError: the output takes no more.
    """
    stop = stop or threading.Event()
    tell = on_stage or (lambda text: log.info(text))
    with telling(out, view or View(), on_event) as session, _excluded(part):

        def stage(text: str) -> None:
            if stop.is_set():
                raise StoppedError(f"stopped before {text}; the same command goes on")
            session.stage(text)
            tell(text)

        if session.view.dashboard:
            require_dashboard()
        require_usable(out)
        if part is not None:
            _refuse_beside_slices(settings, again, part)
            Division(out, part).refuse()
        else:
            lease.refuse_driven(out)
        require_reachable(settings.cluster, out)
        draft = _drafted(settings, out, again, part, stage, stop)
        watch = Watch(on_progress, session.event, stop)
        with Site(settings.cluster, out, model=draft.settings.model, tell=stage, stop=stop) as site:
            if part is None and not draft.resumes:
                site.open()  # what does not come up is told before anything is written
            return _map(draft, site, again, session, watch, stage, part)


def _map(
    draft: Draft, site: Site, again: Again, session: Session, watch: Watch, stage: OnStage, part: Slice | None
) -> Outcome:
    """Begin the run or go on with it, to its end, as the only driver; or its ``part``, as the only one."""
    out = site.out
    settings, outcome = draft.settings, Outcome(out)
    at = {"folder": part.lease, "role": part.role} if part is not None else {}
    with (
        room(out),
        lease.held(out, session.facts, **at) as held,
        session.driving(held.holder, _options(settings, again, part), outcome.totals),
    ):
        if part is None:
            slices.dissolve(out)
            begin(draft, out)  # which for slices is done by now
        identity, whole = str(draft.manifest["identity_sha256"]), draft.work
        work = part.share(whole) if part is not None else whole
        ledger, mine = Ledger(out), frozenset(work)
        if again.redo is not None:
            _redo(ledger, again.redo, work, stage)
        done = sound(ledger, stage, mine)
        outcome.skipped = sum(item in done for item in work)
        remaining = _remaining(ledger, [item for item in work if item not in done], mine, again)
        session.planned(settings.name, len(work), outcome.skipped, len(remaining))
        held.tell()  # so that others know of the session before its next beat is due
        outcome.seconds["prepare"] = session.age_s
        watch = replace(watch, check=held.require)
        start, lost = time.perf_counter(), 0
        while remaining:
            stage(f"starting workers for {len(remaining)} blocks")
            try:
                with site.workers(dashboard=session.view.dashboard) as found:
                    stage(f"mapping on {found.tasks} tasks and {found.actors} actors{_seen(session, found)}")
                    driver = Driver(settings, out, identity, found, outcome, watch)
                    session.driver = driver.facts
                    with site.scaled(found, driver.load, session.event):
                        driver.drive(remaining)
                break
            except ClusterLostError as error:
                lost += 1
                if lost > RELAUNCHES:
                    raise
                stage(f"waiting for the cluster: {error}")
                site.await_again()
                over = ledger.done_works(settings.block_px) | {record.key for record in outcome.set_aside}
                remaining = [item for item in remaining if item not in over]
        site.close()  # what is left to do is done here, and GPUs cost
        outcome.seconds["blocks"] = time.perf_counter() - start
        outcome.set_aside = [record for key, record in ledger.set_asides().items() if key in mine]
        start = time.perf_counter()
        if part is not None:
            outcome.left = Division(out, part).finished(whole, lambda: _end(settings, out, stage))
        else:
            _end(settings, out, stage)
        outcome.seconds["finish"] = time.perf_counter() - start
    return outcome


@contextmanager
def _excluded(part: Slice | None) -> Iterator[None]:
    """In the body, that another process drives what a slice wants is nothing to correct."""
    try:
        yield
    except DrivenError as error:
        if part is None:
            raise
        raise SliceDrivenError(str(error)) from error


def _seen(session: Session, found: Workers) -> str:
    """What the line that says on what is mapped adds of the dashboard, which is told to the others too."""
    session.dashboard(found.dashboard)
    if found.dashboard is not None:
        return f", dashboard {found.dashboard}"
    return ", whose scheduler shows no dashboard" if session.view.dashboard else ""


def _end(settings: Settings, out: str, stage: OnStage) -> str:
    """Make what follows from all blocks, and seal it."""
    finish(settings, out, stage)
    return seal(out)


def _options(settings: Settings, again: Again, part: Slice | None) -> dict[str, Any]:
    """What the command was given, for the first line of the session's log."""
    redo = list(again.redo.bounds) if again.redo is not None else None
    return {
        "name": settings.name,
        "cluster": asdict(settings.cluster),
        "new_run": again.new_run,
        "redo_bounds_deg": redo,
        "retry_set_aside": again.retry_set_aside,
        **({"slice": str(part)} if part is not None else {}),
    }


def prepare(settings: Settings, out: str, stage: OnStage | None = None) -> tuple[str, list[Work]]:
    """Check everything, then write manifest, frozen catalogue and empty mosaics; or find them there.

    Returns the digest of the run's identity, and all its blocks.
    """
    return begin(draft_run(settings, out, stage), out)


# --- what is done again -----------------------------------------------------------------------------


def _remaining(ledger: Ledger, undone: Sequence[Work], mine: Collection[Work], again: Again) -> list[Work]:
    """What is left to do: all that is not done, less what is set aside for a cause that does not pass.

    A host that was away may be back by now; a broken scene is for somebody to look at, who then says so.
    """
    kept = set()
    for item, record in ledger.set_asides().items():
        if item not in mine:
            continue
        if again.retry_set_aside or record.may_pass:
            ledger.take_back(item)
        else:
            kept.add(item)
    return [item for item in undone if item not in kept]


def _redo(ledger: Ledger, region: BaseGeometry, work: Sequence[Work], stage: OnStage) -> None:
    """Forget the blocks that a region meets.

    Raises:
        InputError: it meets none.
    """
    met: set[Block] = set()
    for epsg, size_px in {(block.epsg, block.size_px) for _, block in work}:
        met.update(ZoneRegion(epsg, region).blocks(size_px))
    chosen = [item for item in work if item[1] in met]
    if not chosen:
        bounds = "/".join(f"{v:.4f}" for v in region.bounds)
        raise InputError(f"--redo {bounds}, where the run has no block", "a part of its region", "correct it")
    stage(f"doing {forget(ledger, chosen)} blocks again")


def look_again(settings: Settings, out: str) -> snapshot.Changes | None:
    """How the catalogues differ by now from what the run in ``out`` froze; None where there is no run.

    Raises:
        InputError: the frozen catalogue or one to search is not there.
        CatalogUnavailableError: no catalogue answers.
    """
    if Ledger(out).manifest() is None:
        return None
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


# --- preparation ------------------------------------------------------------------------------------


def _refuse_beside_slices(settings: Settings, again: Again, part: Slice) -> None:
    """Refuse what a slice cannot be asked for: each would do it to all, and again whenever it is restarted.

    Raises:
        InputError: it is asked for.
    """
    if again.new_run or again.redo is not None:
        raise InputError(
            f"--slice {part} with {'--new-run' if again.new_run else '--redo'}",
            "one of them",
            "start it once without --slice, or leave the other out",
        )
    if settings.cluster.kind != "local":
        raise InputError(
            f"--slice {part} with cluster kind {settings.cluster.kind}",
            "kind local: a slice has workers of its own",
            "write cluster: {kind: local}, or leave --slice out",
        )


def _drafted(
    settings: Settings, out: str, again: Again, part: Slice | None, stage: OnStage, stop: threading.Event
) -> Draft:
    """The draft of a run; for a slice, of one of which everything but the blocks lies there by now."""

    def draft() -> Draft:
        stage("searching the catalogues")
        return draft_run(settings, out, stage, anew=again.new_run)

    def prepare() -> Draft:
        drafted = draft()
        begin(drafted, out)
        return drafted

    if part is None:
        return draft()
    with room(out):
        return Division(out, part).prepared(prepare, draft, stage, stop)


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
    def work(self) -> list[Work]:
        """All blocks of all years."""
        blocks = [block for _, of_zone in self.zones for block in of_zone]
        return [(year, block) for year in self.settings.years for block in blocks]


def draft_run(settings: Settings, out: str, stage: OnStage | None = None, *, anew: bool = False) -> Draft:
    """Check everything that a run needs, and write nothing.

    Raises:
        InputError: anything the caller has to correct, another run in ``out`` among it.
        CatalogUnavailableError: no catalogue answers.
    """
    ledger, tell = Ledger(out), stage or log.warning
    model = model_record(settings)
    clearing = ledger.is_clearing()
    present = None if clearing or (anew and ledger.is_begun()) else ledger.manifest()
    anew = clearing or (anew and ledger.is_begun())
    if present is None and not anew:
        ledger.refuse_foreign()
    if present is not None:
        settings = with_precision(settings, str(present["identity"]["precision"]))
    answers: list[CatalogAnswer] = []
    items = find_items(settings, answers) if present is None else snapshot.thaw(f"{out}/{ITEMS}")
    catalogs = catalog_record(answers)
    for line in [*fail_overs(catalogs), *unmasked(items)]:
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
    require_precision(settings)
    manifest = compose(settings, model, snapshot.digest(items), catalogs)
    if present is not None:
        refuse_another(present, manifest, out)
    return Draft(settings, present or manifest, items, zones, present is not None, anew)


def with_precision(settings: Settings, chosen: str) -> Settings:
    """Settings with what ``precision: auto`` came to in this run."""
    if settings.model.precision != "auto":
        return settings
    return replace(settings, model=replace(settings.model, precision=chosen))


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
    blocks = [block for _, of_zone in draft.zones for block in of_zone]
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
        manifest = {**manifest, "context": context, "blocks_sha256": ledger.plan_blocks(blocks)}
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
