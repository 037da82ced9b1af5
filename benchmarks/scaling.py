"""Where a run of 100,000 blocks stops scaling with GPUs, and why: 1 and 2 workers measured, else simulated.

``python -m benchmarks.scaling [--scale tiny|moderate|full] [--out FILE] [--chart PNG]`` runs a simulated
range through the real pipeline with one worker and with two, and holds the simulator of
``benchmarks.simulator`` against both: it is given the processor seconds of the blocks of the first run, no
second of any clock. With the same stage times, brought to blocks of 2048 px by their pixels, it then replays
runs with 1 to 64 GPUs.

Measured here: stage times, bytes and requests a block, what sending to an actor costs and brings, what
driver and scheduler cost a block, the start of workers. **Assumed, not measured**: how fast a GPU is
(:data:`SPEEDS`), and the cluster (:class:`Cluster`). The range has three optical scenes a season.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from benchmarks.scaling_chart import chart
from benchmarks.scaling_inputs import Inputs, Measured, measure_inputs
from benchmarks.simulator import Job, Site, simulate
from cryoscale.bench import record
from cryoscale.features.stack import HALO_PX
from cryoscale.grid import Block
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.ledger import Marker
from cryoscale.read.inputs import READ_THREADS

PACKAGES = ("cryoscale", "dask", "distributed", "numpy", "torch")
SEED = 6
BLOCK_PX, TILE_PX, OVERLAP = 2048, 256, 0.5
SPEEDS = (500, 1000, 2500)
"""Tiles a second of one actor with the full CryoNet: assumed. The last is the target for an H200."""

ENOUGH, BUSY = 0.8, 0.9
"""Below that share of the throughput of one GPU a GPU, a run no longer scales; so busy a GPU should be."""


@dataclass(frozen=True)
class Form:
    """How a block travels to its actor: bytes a pixel, and whether the tasks make the channels."""

    name: str
    bytes_px: int
    channels_by_tasks: bool


FORMS = (
    Form("30 channels as float32 (as it is)", 30 * 4, True),
    # twelve bands, elevation, temperature, two of velocity, coherence and phase
    Form("18 input bands of 16 bits (what if)", 18 * 2, False),
)


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines.

    Nodes of 16 cores with 12.5 Gbit/s, as clouds rent them; a worker of two tasks a core; a store that sends
    200 Gbit/s, the limit of a standard account in Azure's large regions
    (https://learn.microsoft.com/azure/storage/common/scalability-targets-standard-account), and answers
    a request in 50 ms.
    """

    cores: int = 16
    tasks_a_core: int = 2
    link_bytes_s: float = 12.5e9 / 8
    store_bytes_s: float = 200e9 / 8
    latency_s: float = 0.05


CLUSTER = Cluster()


@dataclass(frozen=True)
class Scale:
    """Range and blocks that are measured; blocks, GPUs and workers a GPU that are simulated."""

    inputs: Inputs
    blocks: int
    gpus: tuple[int, ...]
    workers: tuple[int, ...]
    steady_blocks: int


_WORKERS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SCALES = {
    "tiny": Scale(Inputs("tiny", 256, 50, 2**21, (1,)), 100, (1, 4), (4, 16), 50),
    "moderate": Scale(Inputs("small", 512, 500, 2**26), 20_000, (1, 2, 4, 8, 16, 32, 64), _WORKERS, 1000),
    "full": Scale(Inputs("medium", 512, 1000, 2**27), 100_000, (1, 2, 4, 8, 16, 32, 64), _WORKERS, 2000),
}


# --- stage times --------------------------------------------------------------------------------------


def hull_px(block: Block) -> int:
    """Pixels that a block reads, all halos included."""
    outer = read_window(block, TILE_PX, OVERLAP).pad(HALO_PX)
    return outer.height * outer.width


def tiles_of(block: Block) -> int:
    """Tiles of a block all of whose pixels hold data."""
    own, stride = block.window, stride_px(TILE_PX, OVERLAP)
    return len(tile_origins(own.row, own.row + own.height, TILE_PX, stride)) * len(
        tile_origins(own.col, own.col + own.width, TILE_PX, stride)
    )


def as_measured(marker: Marker, send_cpu_s_byte: float) -> Job:
    """A block as it was on this machine, where files are local and actors share the cores."""
    cpu = marker.cpu_seconds
    outer = read_window(marker.block, TILE_PX, OVERLAP)
    return Job(
        read_cpu_s=cpu["read"],
        features_cpu_s=cpu["features"],
        predict_s=cpu["predict"],
        write_cpu_s=cpu["write"],
        send_cpu_s=send_cpu_s_byte * outer.height * outer.width * FORMS[0].bytes_px,
        read_threads=READ_THREADS,
    )


def in_production(marker: Marker, form: Form, tiles_s: float, send_cpu_s_byte: float) -> Job:
    """A measured block brought to 2048 px, on a cluster: by pixels read, or by pixels written."""
    cpu, block = marker.cpu_seconds, Block(marker.epsg, 0, 0, BLOCK_PX)
    more = hull_px(block) / hull_px(marker.block)
    outer = read_window(block, TILE_PX, OVERLAP)
    sent = float(outer.height * outer.width * form.bytes_px)
    sending = send_cpu_s_byte / 2 * sent  # its own end; the other is the intake's
    return Job(
        wait_s=more * marker.fetches * CLUSTER.latency_s / READ_THREADS,
        read_cpu_s=more * cpu["read"],
        features_cpu_s=more * cpu["features"] * form.channels_by_tasks + sending,
        predict_s=tiles_of(block) / tiles_s,
        write_cpu_s=cpu["write"] * (BLOCK_PX / marker.size_px) ** 2,
        fetched_bytes=more * marker.fetched_bytes,
        sent_bytes=sent,
        read_threads=READ_THREADS,
    )


def fuller_half(markers: Sequence[Marker]) -> list[Marker]:
    """Those with most pixels: a small range has more edge than a region of 100,000 blocks."""
    ranked = sorted(markers, key=lambda marker: (marker.pixels, marker.row, marker.col))
    return ranked[len(ranked) // 2 :]


# --- the measured runs --------------------------------------------------------------------------------


def validation(measured: Measured) -> list[dict[str, Any]]:
    """Seconds from the first block to the last, as they were and as the simulator has them."""
    rows = []
    markers = sorted(measured.runs[0].markers, key=lambda marker: min(marker.starts.values()))
    jobs = [as_measured(marker, measured.send_cpu_s_byte) for marker in markers]
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
                "start_s": round(run.start_s, 2),
                "load": run.load,
            }
        )
    return rows


# --- the simulated runs -------------------------------------------------------------------------------


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
        site = case.site(FEW_GPUS, max(1, FEW_GPUS * workers // CLUSTER.cores))
        site = replace(site, store_bytes_s=float("inf"), driver_s=0.0, start_s=0.0)
        count = scale.steady_blocks + 2 * site.tasks * site.nodes
        busy = simulate(case.jobs(count), site).busy["actors"]
        rows.append({"workers": site.nodes * CLUSTER.cores / FEW_GPUS, "busy": round(busy, 4)})
    return rows


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
                    "one_gpu_held_by": held_by(rows[0]),
                    "last_held_by": held_by(rows[-1]),
                }
            )
    return found


# --- all of it ----------------------------------------------------------------------------------------


def finish_s_a_block() -> float:
    """Seconds of what follows the last block, in one process: levels, outlines, map, report.

    The slope between the two regions that ``benchmarks.memory`` measured last, whose ice is connected
    throughout, on blocks of 512 px; a region with less ice takes less.
    """
    line = json.loads((RESULTS / "memory.jsonl").read_text("utf-8").splitlines()[-1])
    pair = line["results"]["pairs"][-1]
    small, large = (sum(pair[side]["seconds"].values()) for side in ("small", "large"))
    a_block = (large - small) / (pair["large"]["blocks"] - pair["small"]["blocks"])
    return float(a_block) * (BLOCK_PX / line["sizes"]["block_px"]) ** 2


def lines(results: Mapping[str, Any]) -> str:
    """The measured runs and the simulated ones as text."""
    out = ["measured and simulated, on this machine:"]
    for row in results["validation"]:
        out.append(
            f"  {row['workers']} workers: {row['blocks']} blocks in {row['measured_s']} s, simulated "
            f"{row['forecast_s']} s ({row['error_pct']:+.1f} %)"
        )
    blocks = results["blocks"]
    out.append(f"simulated, {blocks:,} blocks of {BLOCK_PX} px; GPU speeds are assumed, not measured:")
    out.append(
        f"{'tiles/s':>8}  {'blocks travel':44}{'GPUs':>5}{'CPU workers':>13}{'blocks/s':>10}{'hours':>9}"
        f"{'GPU busy':>10}{'efficiency':>12}"
    )
    for case in results["cases"]:
        for row in case["by_gpus"]:
            told = f"  held by {held_by(row)}" if "gain_where_doubled" in row else ""
            out.append(
                f"{case['tiles_s']:8}  {case['form']:44}{row['gpus']:5}{row['cpu_workers']:13,}"
                f"{row['blocks_s']:10.2f}{row['hours']:9.2f}{row['busy']['actors']:10.1%}"
                f"{row['efficiency']:12.1%}{told}"
            )
    hours = results["finish_s_a_block"] * blocks / 3600
    out.append(
        f"after the last block one process goes on for up to {hours:.2g} h, over ice as in benchmarks.memory"
    )
    return "\n".join(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, simulate, print, draw, and keep the result as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.jsonl")
    parser.add_argument("--chart", type=Path)
    given = parser.parse_args(arguments)
    scale = SCALES[given.scale]
    measured = measure_inputs(scale.inputs)
    begun = time.perf_counter()
    results: dict[str, Any] = {
        "validation": validation(measured),
        "driver_ms": round(1000 * measured.driver_s, 3),
        "intake_mb_s": round(measured.intake_bytes_s / 1e6, 1),
        "send_cpu_s_gb": round(1e9 * measured.send_cpu_s_byte, 3),
        "finish_s_a_block": round(finish_s_a_block(), 3),
        "blocks": scale.blocks,
        "cases": forecast(measured, scale),
    }
    results["limits_blocks_s"] = {
        "object store": CLUSTER.store_bytes_s / results["cases"][0]["job"]["fetched_bytes"],
        "driver and scheduler": 1 / measured.driver_s,
    }
    results["simulated_in_s"] = round(time.perf_counter() - begun, 1)
    print(lines(results))
    if given.chart:
        chart(results, given.chart)
    method = (
        "the same simulated range through the pipeline with 1 and 2 workers, seconds from the first block's "
        "first stage to the end of the last; simulated from the processor seconds of the run with 1 worker; "
        "runs with GPUs are only simulated: blocks drawn from the fuller half of those measured, brought to "
        f"{BLOCK_PX} px by pixels read and written, GPU speeds and cluster assumed, without failures and "
        "what follows the last block; held by: the resource whose doubling makes the run fastest"
    )
    sizes = {"scale": given.scale, **asdict(scale), "cluster": asdict(CLUSTER), "overlap": OVERLAP}
    record.append(
        given.out, record.line("scaling", method=method, sizes=sizes, results=results, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
