"""A run: prepared, driven over its blocks, and finished with its map, outlines and report.

Dask holds no state of it. The driver keeps a bounded number of blocks in flight, repeats what
failed, replaces an actor that was lost, and sets aside a block that fails three times; killed at any
moment, it leaves a folder that the same command completes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shapely

import cryoscale
from cryoscale.cluster import ACTOR_THREADS, CPU, GPU, Workers, workers
from cryoscale.errors import ActorLostError, BlockFailedError, CryoscaleError, InputError, WeightsError
from cryoscale.features.stack import CHANNELS
from cryoscale.featurise import fit_run_basis
from cryoscale.grid import Block, Window
from cryoscale.infer.actor import ActorRef, ModelActor, call_actor
from cryoscale.ledger import Ledger, Marker, SetAside
from cryoscale.models import loading
from cryoscale.plan import Items, block_aligned, blocks_of, find_items, zone_regions
from cryoscale.read import snapshot
from cryoscale.settings import Settings
from cryoscale.task import process_block
from cryoscale.write import mosaic, quicklook

log = logging.getLogger("cryoscale")

ATTEMPTS = 3
"""How often a block may fail before it is set aside."""

ACTOR_DEADLINE_S = 1800.0
"""How long a block may take on its actor before the actor counts as hung."""

ACTOR_START_S = 600.0
"""How long an actor may take to load its model."""

Work = tuple[int, Block]


@dataclass(frozen=True)
class Progress:
    """How far a run is; given to ``on_progress`` after every block."""

    done: int
    set_aside: int
    total: int
    pixels: int
    """Pixels finished in this session."""
    elapsed_s: float

    @property
    def pixels_per_s(self) -> float:
        """Pixels a second in this session."""
        return self.pixels / self.elapsed_s if self.elapsed_s > 0 else 0.0


@dataclass
class Outcome:
    """What a session of a run did."""

    out: str
    computed: list[Marker] = field(default_factory=list)
    skipped: int = 0
    set_aside: list[SetAside] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 where blocks are set aside."""
        return 1 if self.set_aside else 0

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        failed = sorted({tuple(scene) for marker in self.computed for scene in marker.scenes_failed})
        return {
            "out": self.out,
            "computed": len(self.computed),
            "skipped": self.skipped,
            "set_aside": [record.model_dump(mode="json") for record in self.set_aside],
            "scenes_failed": [list(scene) for scene in failed],
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


OnProgress = Callable[[Progress], None]
OnStage = Callable[[str], None]


def run(
    settings: Settings,
    out: str,
    *,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
) -> Outcome:
    """Map the region of ``settings`` into ``out``, or complete the run that lies there.

    Raises:
        InputError: anything the caller has to correct; nothing is written in that case.
    """
    stage = on_stage or (lambda text: log.info(text))
    outcome = Outcome(out)
    started = time.perf_counter()
    stage("searching the catalogues")
    identity, work = prepare(settings, out)
    outcome.seconds["prepare"] = time.perf_counter() - started
    ledger = Ledger(out)
    done = ledger.done()
    remaining = [item for item in work if item not in done]
    outcome.skipped = len(work) - len(remaining)
    if remaining:
        stage(f"starting workers for {len(remaining)} blocks")
        with workers(settings.cluster) as found:
            outcome.seconds["workers"] = time.perf_counter() - started - outcome.seconds["prepare"]
            stage(f"mapping on {found.tasks} tasks and {found.actors} actors")
            start = time.perf_counter()
            driver = _Driver(settings, out, identity, found, outcome, on_progress, len(work))
            driver.drive(remaining)
            outcome.seconds["blocks"] = time.perf_counter() - start
    outcome.set_aside = list(ledger.set_asides().values())
    from cryoscale.finish import finish

    start = time.perf_counter()
    finish(settings, out, stage)
    outcome.seconds["finish"] = time.perf_counter() - start
    return outcome


# --- preparation ------------------------------------------------------------------------------------


def prepare(settings: Settings, out: str) -> tuple[str, list[Work]]:
    """Check everything, then write manifest, frozen catalogue and empty mosaics; or find them there.

    Returns the digest of the run's identity, and all its blocks.
    """
    ledger = Ledger(out)
    model = _model_record(settings)
    zones = [(zone, blocks_of(settings, zone)) for zone in zone_regions(settings)]
    if not any(blocks for _, blocks in zones):
        raise InputError("region and candidates with nothing in common", "a block to map", "check both")
    present = ledger.manifest()
    frozen = f"{out}/items.parquet"
    items = find_items(settings) if present is None else snapshot.thaw(frozen)
    _require_modalities(settings, items)
    if (
        present is None
        and model["pca"] is None
        and not {"PCA1", "PCA2", "PCA3"}.isdisjoint(model["channels"])
    ):
        model["pca"] = fit_run_basis(settings, items).to_dict()
    identity = _identity(settings, model, snapshot.digest(items))
    work = [(year, block) for year in settings.years for _, blocks in zones for block in blocks]
    sha256 = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    manifest = {
        "name": settings.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": dict(settings.document),
        "versions": versions(),
        "model": model,
        "identity_sha256": sha256,
        "context": {**_context(settings, model), "blocks": len(work)},
    }
    if present is None:
        ledger.refuse_foreign()
        with tempfile.TemporaryDirectory() as folder:
            snapshot.freeze(items, Path(folder) / "items.parquet")
            ledger.put_bytes("items.parquet", (Path(folder) / "items.parquet").read_bytes())
    ledger.open(manifest, identity)
    for zone, blocks in zones:
        for year in settings.years if blocks else ():
            window = block_aligned(zone.window(), settings.block_px)
            mosaic.create(
                f"{out}/mosaic.zarr",
                year=year,
                window=window,
                block_px=settings.block_px,
                classes=tuple(model["classes"]),
                attrs={"cryoscale:run": settings.name},
            )
            quicklook.create(out, year=year, window=window, block_px=settings.block_px)
    return sha256, work


def _model_record(settings: Settings) -> dict[str, Any]:
    """Load the model once in the driver, so that weights that cannot be used are refused at once."""
    spec = settings.model
    predictor = loading.load_predictor(
        weights=spec.weights, name=spec.name, device="cpu", precision="fp32" if spec.name is None else "auto"
    )
    if predictor.needs_halo and settings.tile_px % predictor.tile_multiple:
        raise InputError(
            f"tile_px {settings.tile_px}",
            f"a multiple of {predictor.tile_multiple}, as the model needs",
            "correct tiling.tile_px",
        )
    unknown = sorted(set(predictor.channels) - set(CHANNELS))
    if unknown:
        raise WeightsError(
            f"weights for the channels {', '.join(unknown)}",
            "channels of the 30-channel stack",
            "take weights made for these channels",
        )
    described = predictor.describe()
    return {
        **described,
        "identity": {key: described.get(key) for key in ("name", "sha256")},
        "channels": list(predictor.channels),
        "classes": list(predictor.classes),
        "needs_halo": predictor.needs_halo,
        "pca": predictor.pca,
    }


def _require_modalities(settings: Settings, items: Items) -> None:
    if settings.on_missing != "fail":
        return
    for key, found in items.items():
        if not found:
            raise InputError(
                f"no item for {key} under on_missing: fail",
                "every modality of sources",
                "widen the season, or leave the source out",
            )


def _identity(settings: Settings, model: Mapping[str, Any], catalogue: str) -> dict[str, Any]:
    """Everything that decides a pixel, and nothing else."""
    return {
        "region": shapely.to_geojson(settings.region),
        "years": list(settings.years),
        "catalogue": catalogue,
        "model": model["identity"],
        "sources": {
            name: [s.collection, s.href, s.composite] for name, s in sorted(settings.sources.items())
        },
        "overlap": settings.model.overlap,
        "precision": settings.model.precision,
        "tile_px": settings.tile_px,
        "block_px": settings.block_px,
        "on_missing": settings.on_missing,
    }


def _context(settings: Settings, model: Mapping[str, Any]) -> dict[str, Any]:
    velocity = settings.sources.get("velocity")
    return {
        "region": shapely.to_geojson(settings.region),
        "tile_px": settings.tile_px,
        "overlap": settings.model.overlap,
        "on_missing": settings.on_missing,
        "composite": settings.sources["optical"].composite or "least_snow",
        "velocity_href": velocity.href if velocity else None,
        "channels": model["channels"],
        "needs_halo": model["needs_halo"],
        "pca": model["pca"],
    }


def versions() -> dict[str, str]:
    """Versions of cryoscale and of what decides its pixels."""
    from importlib.metadata import version

    names = ("numpy", "torch", "xarray", "dask", "zarr", "odc-stac", "rasterio", "numba")
    return {"cryoscale": cryoscale.__version__, **{name: version(name) for name in names}}


# --- the drive --------------------------------------------------------------------------------------


def block_task(
    out: str, identity: str, year: int, block: Block, actor: ActorRef, attempt: int, deadline_s: float
) -> dict[str, Any]:
    """What a CPU worker runs: the block, with the actor asked for its probabilities."""
    from distributed import get_worker

    def predict(array: Any, window: Window, wanted: Block) -> Mapping[str, Any]:
        place = (window.row, window.col, wanted)
        answer: Mapping[str, Any] = call_actor(actor, "predict", array, *place, deadline_s=deadline_s)
        return answer

    marker = process_block(
        out, identity, year, block, predict, attempt=attempt, worker=str(get_worker().name)
    )
    return marker.model_dump(mode="json")


class _Driver:
    """Keeps workers busy with blocks until none is left that could still succeed."""

    def __init__(
        self,
        settings: Settings,
        out: str,
        identity: str,
        found: Workers,
        outcome: Outcome,
        on_progress: OnProgress | None,
        total: int,
    ) -> None:
        self.settings, self.out, self.identity = settings, out, identity
        self.workers, self.outcome = found, outcome
        self.on_progress, self.total = on_progress, total
        self.ledger = Ledger(out)
        self.failures: dict[Work, int] = {}
        self.flying: dict[Any, tuple[Work, int, int]] = {}
        self.actors: list[Any] = [None] * found.actors
        self.refs: dict[int, ActorRef] = {}
        self.generation = [0] * found.actors
        self.started = time.perf_counter()

    def drive(self, work: Sequence[Work]) -> None:
        """Run all of ``work``; returns when each block is done or set aside."""
        from distributed import wait

        queue = deque(work)
        for number in range(len(self.actors)):
            self._start_actor(number)
        limit = 2 * self.workers.tasks
        while queue or self.flying:
            while queue and len(self.flying) < limit:
                self._submit(queue.popleft())
            try:
                finished = wait(list(self.flying), timeout=60, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in finished:
                again = self._collect(future)
                if again is not None:
                    queue.append(again)
        for future in self.actors:
            future.release()

    def _start_actor(self, number: int) -> None:
        """Place actor ``number`` on a worker that offers a GPU; its weights are loaded there once."""
        model = self.settings.model
        spec = {"weights": model.weights, "name": model.name, "precision": model.precision}
        future: Any = self.workers.client.submit(
            ModelActor,
            spec,
            tile_px=self.settings.tile_px,
            overlap=model.overlap,
            threads=ACTOR_THREADS,
            actor=True,
            pure=False,
            resources={GPU: 1},
        )
        self.refs[number] = ActorRef.of(future.result(timeout=ACTOR_START_S))
        self.actors[number] = future

    def _submit(self, work: Work) -> None:
        year, block = work
        number = min(range(len(self.actors)), key=lambda n: sum(1 for f in self.flying.values() if f[1] == n))
        future = self.workers.client.submit(
            block_task,
            self.out,
            self.identity,
            year,
            block,
            self.refs[number],
            self.failures.get(work, 0) + 1,
            ACTOR_DEADLINE_S,
            pure=False,
            resources={CPU: 1},
        )
        self.flying[future] = (work, number, self.generation[number])

    def _collect(self, future: Any) -> Work | None:
        """Take a finished task in; returns the block if it has to be done again."""
        work, number, generation = self.flying.pop(future)
        error = None if future.status == "finished" else (future.exception() or ActorLostError("cancelled"))
        if error is None:
            self.outcome.computed.append(Marker.model_validate(future.result()))
        elif isinstance(error, ActorLostError) and generation == self.generation[number]:
            log.warning("actor %d was lost and is replaced: %s", number, error)
            self.generation[number] += 1
            self._start_actor(number)
        future.release()
        if error is not None:
            return self._failed(work, error)
        self._tell()
        return None

    def _failed(self, work: Work, error: BaseException) -> Work | None:
        self.failures[work] = self.failures.get(work, 0) + 1
        hopeless = isinstance(error, CryoscaleError) and not error.retry
        if self.failures[work] < ATTEMPTS and not hopeless:
            return work
        year, block = work
        record = SetAside(
            year=year,
            epsg=block.epsg,
            row=block.row,
            col=block.col,
            size_px=block.size_px,
            error=type(error).__name__,
            reason=" ".join(str(error).split())[:500],
            attempts=self.failures[work],
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.ledger.set_aside(record)
        self.outcome.set_aside.append(record)
        log.warning("%s", BlockFailedError(f"block {block.key} of {year} is set aside: {record.reason}"))
        self._tell()
        return None

    def _tell(self) -> None:
        if self.on_progress is None:
            return
        computed = self.outcome.computed
        self.on_progress(
            Progress(
                done=self.outcome.skipped + len(computed),
                set_aside=len(self.outcome.set_aside),
                total=self.total,
                pixels=sum(marker.pixels for marker in computed),
                elapsed_s=time.perf_counter() - self.started,
            )
        )
