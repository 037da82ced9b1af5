"""A run: prepared, driven over its blocks, and finished with its map, outlines and report.

Killed at any moment, it leaves a folder that the same command completes.

What the steps need is imported when they begin: what is wrong with the output, its driver or its cluster is
told at once, and the workers' libraries are loaded in their own process beside those of this one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from shapely.geometry.base import BaseGeometry

from cryoscale import forking, lease, slices
from cryoscale.cluster import Site, require_dashboard, require_reachable
from cryoscale.curve import along_curve
from cryoscale.ending import end
from cryoscale.errors import (
    ClusterLostError,
    DrivenError,
    InputError,
    SliceDrivenError,
    StoppedError,
)
from cryoscale.grid import Block
from cryoscale.ledger import Ledger, Work
from cryoscale.outcome import OnProgress, Outcome, Watch
from cryoscale.region import ZoneRegion
from cryoscale.room import room
from cryoscale.roster import Workers
from cryoscale.session import OnEvent, Session, View, telling
from cryoscale.settings import Settings
from cryoscale.slices import Division, Slice
from cryoscale.write.usable import require_run_folder, require_usable

if TYPE_CHECKING:
    from cryoscale.preparation import Draft, OnStage

log = logging.getLogger("cryoscale")

RELAUNCHES = 5
"""How often one command starts or joins a cluster anew that was lost under it."""


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
        require_run_folder(out)
        require_usable(out)
        if part is not None:
            _refuse_beside_slices(settings, again, part)
            Division(out, part).refuse()
        else:
            lease.refuse_driven(out)
        require_reachable(settings.cluster, out, stop, stage)
        draft = _drafted(settings, out, again, part, stage, stop)
        met = _met(draft, out, again)
        watch = Watch(on_progress, session.event, stop)
        with Site(settings.cluster, out, model=draft.settings.model, tell=stage, stop=stop) as site:
            if part is None and not draft.resumes:
                site.open()  # what does not come up is told before anything is written
                draft = _tried(draft, site, stage)
            return _map(draft, site, again, met, session, watch, stage, part)


def _map(
    draft: Draft,
    site: Site,
    again: Again,
    met: Sequence[Work],
    session: Session,
    watch: Watch,
    stage: OnStage,
    part: Slice | None,
) -> Outcome:
    """Begin the run or go on with it, to its end, as the only driver; or its ``part``, as the only one.

    Blocks of ``met`` are done again.
    """
    from cryoscale.drive import Driver
    from cryoscale.preparation import begin
    from cryoscale.resume import forget, sound

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
        work = part.share(whole) if part is not None else along_curve(whole)
        ledger, mine = Ledger(out), frozenset(work)
        if met:
            stage(f"doing {forget(ledger, met)} blocks again")
        done = sound(ledger, stage, mine)
        outcome.skipped = sum(item in done for item in work)
        remaining = _remaining(ledger, [item for item in work if item not in done], mine, again)
        session.planned(settings.name, len(work), outcome.skipped, len(remaining))
        held.tell()  # so that others know of the session before its next beat is due
        outcome.seconds["prepare"] = session.age_s
        watch = replace(watch, check=held.require)
        start, lost = time.perf_counter(), 0
        if not remaining:
            site.clear()
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
            outcome.left = Division(out, part).finished(whole, lambda: end(settings, out, stage))
        else:
            end(settings, out, stage)
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


def _tried(draft: Draft, site: Site, stage: OnStage) -> Draft:
    """The draft with the precision that a cluster which is joined showed to be best, if that was asked."""
    from cryoscale.preparation import tried_there

    return draft if site.spec.kind == "local" else tried_there(draft, site, stage)


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


def _met(draft: Draft, out: str, again: Again) -> list[Work]:
    """What is to be done again, of a run that lies there: the blocks that a region meets.

    Raises:
        InputError: it meets none, or there is no run to do any of again.
    """
    if again.redo is None:
        return []
    if not draft.resumes:
        given = "--redo with --new-run" if draft.anew else f"--redo of {out}, where no run was begun"
        raise InputError(given, "a run that lies there and stays", "leave one of them out")
    met: set[Block] = set()
    for epsg, size_px in {(block.epsg, block.size_px) for _, block in draft.work}:
        met.update(ZoneRegion(epsg, again.redo).blocks(size_px))
    chosen = [item for item in draft.work if item[1] in met]
    if not chosen:
        bounds = "/".join(f"{v:.4f}" for v in again.redo.bounds)
        raise InputError(f"--redo {bounds}, where the run has no block", "a part of its region", "correct it")
    return chosen


# --- slices -----------------------------------------------------------------------------------------


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
        if again.new_run or not Ledger(out).is_begun():  # else there may be nothing to do for workers
            forking.import_ahead(settings.cluster, networks=settings.model.weights is not None)
        from cryoscale.preparation import draft_run

        return draft_run(settings, out, stage, anew=again.new_run)

    def prepare() -> Draft:
        from cryoscale.preparation import begin

        drafted = draft()
        begin(drafted, out)
        return drafted

    if part is None:
        return draft()
    with room(out):
        return Division(out, part).prepared(prepare, draft, stage, stop)
