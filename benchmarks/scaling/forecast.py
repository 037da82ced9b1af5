"""Runs simulated from measured stage times: those that were measured, for comparison, and those with GPUs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.scaling.inputs import Inputs, Measured
from benchmarks.scaling.jobs import (
    BLOCK_PX,
    CLUSTER,
    FORMS,
    SPEEDS,
    Form,
    as_measured,
    fuller_half,
    in_production,
    tiles_of,
)
from benchmarks.scaling.simulator import Job, Site, simulate
from cryoscale.grid import Block

SEED = 6
ENOUGH, BUSY = 0.8, 0.9
"""Below that share of the throughput of one GPU a GPU, a run no longer scales; so busy a GPU should be."""


@dataclass(frozen=True)
class Scale:
    """Range and blocks that are measured; blocks, GPUs and workers a GPU that are simulated."""

    inputs: Inputs
    blocks: int
    gpus: tuple[int, ...]
    workers: tuple[int, ...]
    steady_blocks: int


def validation(measured: Measured) -> list[dict[str, Any]]:
    """Seconds from the first block to the last, as they were and as the simulator has them."""
    rows = []
    markers = sorted(measured.runs[0].markers, key=lambda marker: min(marker.starts.values()))
    jobs = [as_measured(marker, measured.runs[0].rest_cpu_s) for marker in markers]
    for run in measured.runs:
        site = Site(
            nodes=1,
            tasks=2 * run.workers,
            cores=measured.cores,
            actors=min(run.workers, measured.cores),
            actors_on_nodes=True,
            driver_s=measured.driver_s,
        )
        forecast = simulate(jobs, site).wall_s
        rows.append(
            {
                "workers": run.workers,
                "blocks": len(run.markers),
                "measured_s": round(run.blocks_s, 2),
                "forecast_s": round(forecast, 2),
                "error_pct": round(100 * (forecast / run.blocks_s - 1), 1),
                "cpu_s": round(sum(sum(marker.cpu_seconds.values()) for marker in run.markers), 2),
                "rest_cpu_s": round(run.rest_cpu_s * len(run.markers), 2),
                "start_s": round(run.start_s, 2),
                "load": run.load,
            }
        )
    return rows


@dataclass(frozen=True)
class Case:
    """A speed of the GPUs and a form in which blocks travel, with stage times to draw from."""

    tiles_s: int
    form: Form
    pool: tuple[Job, ...]
    measured: Measured

    @classmethod
    def of(cls, tiles_s: int, form: Form, measured: Measured) -> Case:
        """The case with the stage times of the run with one worker."""
        markers = fuller_half(measured.runs[0].markers)
        pool = [in_production(m, form, tiles_s, measured.send_cpu_s_byte) for m in markers]
        return cls(tiles_s, form, tuple(pool), measured)

    def jobs(self, count: int) -> list[Job]:
        """Blocks drawn from those that were measured, the same ones at every call."""
        return random.Random(SEED).choices(self.pool, k=count)

    def site(self, gpus: int, nodes: int) -> Site:
        """The cluster with so many GPUs and nodes for tasks."""
        return Site(
            nodes=nodes,
            tasks=CLUSTER.cores * CLUSTER.tasks_a_core,
            cores=CLUSTER.cores,
            actors=gpus,
            link_bytes_s=CLUSTER.link_bytes_s,
            store_bytes_s=CLUSTER.store_bytes_s,
            intake_bytes_s=self.measured.intake_bytes_s,
            driver_s=self.measured.driver_s,
            start_s=self.measured.runs[-1].start_s,
        )


FEW_GPUS = 4
"""So many GPUs share whole nodes where it is found out how many workers one needs."""


def by_workers(case: Case, scale: Scale) -> list[dict[str, float]]:
    """How busy a GPU is with so many workers for it, in steady state, where nothing else limits."""
    rows = []
    for workers in scale.workers:
        site = _steady(case, workers)
        count = scale.steady_blocks + 4 * site.tasks * site.nodes
        # blocks that were predicted before may end in the middle half: a share of a little over 1 is 1
        busy = min(1.0, simulate(case.jobs(count), site).steady_rate * case.pool[0].predict_s / FEW_GPUS)
        rows.append({"workers": site.nodes * CLUSTER.cores / FEW_GPUS, "busy": round(busy, 4)})
    return rows


def _steady(case: Case, workers: int) -> Site:
    """Some GPUs with so many workers each, and nothing else that limits."""
    site = case.site(FEW_GPUS, max(1, FEW_GPUS * workers // CLUSTER.cores))
    return replace(site, store_bytes_s=float("inf"), driver_s=0.0, start_s=0.0)


def enough_workers(rows: Sequence[Mapping[str, float]]) -> float:
    """The fewest workers a GPU that keep it busy for 90 % of the time, or of the most that it can be."""
    wanted = BUSY * min(1.0, max(row["busy"] for row in rows))
    return next(row["workers"] for row in rows if row["busy"] >= wanted)


RELIEFS: Mapping[str, Any] = {
    "CPU workers": lambda site: replace(site, nodes=2 * site.nodes),
    "network of the CPU nodes": lambda site: replace(site, link_bytes_s=2 * site.link_bytes_s),
    "object store": lambda site: replace(site, store_bytes_s=2 * site.store_bytes_s),
    "intake of the actors": lambda site: replace(site, intake_bytes_s=2 * site.intake_bytes_s),
    "driver and scheduler": lambda site: replace(site, driver_s=site.driver_s / 2),
    "start of the workers": lambda site: replace(site, start_s=site.start_s / 2),
}


RELIEF_BLOCKS = 2000
"""Blocks a GPU over which it is found out what holds a run: enough for its start and end not to tell."""


def limits(jobs: Sequence[Job], site: Site) -> dict[str, float]:
    """By how much the run gets faster where one resource is doubled."""
    some = jobs[: RELIEF_BLOCKS * site.actors]
    wall_s = simulate(some, site).wall_s
    gains = {name: wall_s / simulate(some, give(site)).wall_s for name, give in RELIEFS.items()}
    gains["GPUs"] = (
        wall_s / simulate([replace(job, predict_s=job.predict_s / 2) for job in some], site).wall_s
    )
    return {name: round(gain, 3) for name, gain in gains.items()}


def most_held_by(case: Case, scale: Scale, rows: Sequence[Mapping[str, float]]) -> str | None:
    """What keeps a GPU below 90 % however many workers it has; None where nothing does."""
    if max(row["busy"] for row in rows) >= BUSY:
        return None
    site = _steady(case, scale.workers[-1])
    return held_by({"gain_where_doubled": limits(case.jobs(RELIEF_BLOCKS * FEW_GPUS), site)})


def by_gpus(case: Case, scale: Scale, workers: float) -> list[dict[str, Any]]:
    """A row for each number of GPUs, with so many workers a GPU."""
    rows: list[dict[str, Any]] = []
    jobs = case.jobs(scale.blocks)
    for gpus in scale.gpus:
        site = case.site(gpus, max(1, -int(-gpus * workers // CLUSTER.cores)))
        course = simulate(jobs, site)
        rate = len(jobs) / course.wall_s
        one = rows[0]["blocks_s"] / rows[0]["gpus"] if rows else rate / gpus
        row: dict[str, Any] = {
            "gpus": gpus,
            "cpu_workers": site.nodes * CLUSTER.cores,
            "blocks_s": rate,
            "hours": course.wall_s / 3600,
            "efficiency": rate / gpus / one,
            "busy": {name: round(share, 4) for name, share in course.busy.items()},
        }
        first = row["efficiency"] < ENOUGH and all(known["efficiency"] >= ENOUGH for known in rows)
        if first or gpus in (scale.gpus[0], scale.gpus[-1]):
            row["gain_where_doubled"] = limits(jobs, site)
        rows.append(row)
    return rows


def stop_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The first row that no longer scales, and the resource that holds it most; None where all do."""
    row = next((row for row in rows if row["efficiency"] < ENOUGH), None)
    return None if row is None else {"gpus": row["gpus"], "by": held_by(row)}


def held_by(row: Mapping[str, Any]) -> str:
    """The resource whose doubling would make most of it."""
    gains: Mapping[str, float] = row["gain_where_doubled"]
    return max(gains, key=lambda name: gains[name])


def forecast(measured: Measured, scale: Scale) -> list[dict[str, Any]]:
    """Every case with its rows by workers and by GPUs."""
    found = []
    for form in FORMS:
        for tiles_s in SPEEDS:
            case = Case.of(tiles_s, form, measured)
            a_gpu = by_workers(case, scale)
            workers = enough_workers(a_gpu)
            rows = by_gpus(case, scale, workers)
            means = {
                name: sum(getattr(job, name) for job in case.pool) / len(case.pool) for name in asdict(Job())
            }
            found.append(
                {
                    "tiles_s": tiles_s,
                    "tiles_a_block": tiles_of(Block(32645, 0, 0, BLOCK_PX)),
                    "form": form.name,
                    "job": {name: float(f"{value:.4g}") for name, value in means.items()},
                    "by_workers": a_gpu,
                    "workers_a_gpu": workers,
                    "by_gpus": rows,
                    "stops": stop_of(rows),
                    "intake_tiles_s": measured.intake_bytes_s
                    / means["sent_bytes"]
                    * tiles_s
                    * means["predict_s"],
                    "one_gpu_held_by": held_by(rows[0]),
                    "most_held_by": most_held_by(case, scale, a_gpu),
                    "last_held_by": held_by(rows[-1]),
                }
            )
    return found
