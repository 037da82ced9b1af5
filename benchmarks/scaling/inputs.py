"""What the simulator of runs is fed with, measured here: stage times, sending, what the driver costs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from distributed import wait
from numpy.typing import NDArray

from cryoscale.bench import idle, orchestration, processes, record
from cryoscale.bench.whole import SEED, YEAR
from cryoscale.blocktask import ACTOR_DEADLINE_S
from cryoscale.cluster import workers
from cryoscale.config import load_config
from cryoscale.demo import simulated_range
from cryoscale.forecast.rates import cores
from cryoscale.infer.calling import ActorRef, call_actor
from cryoscale.infer.gate import PLACES
from cryoscale.ledger import Ledger, Marker
from cryoscale.pipeline import run
from cryoscale.roster import CPU, GPU, Workers, workers_at
from cryoscale.settings import ClusterSpec
from cryoscale.simulate.server import serve

SENDINGS, TURNS = 8, 9
"""Arrays that each sender sends while its sending is measured, and how often that is done."""


@dataclass(frozen=True)
class Inputs:
    """Size of the range, edge of its blocks, blocks without work, bytes sent at once, numbers of workers."""

    range: str
    block_px: int
    idle_blocks: int
    sent_bytes: int
    workers: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class MeasuredRun:
    """A run with so many workers.

    Attributes:
        workers: how many.
        start_s: until its first block began.
        blocks_s: from there to the end of its last.
        markers: of its blocks.
        rest_cpu_s: what a block costs all processes beyond its stages: sending, Dask, marker.
        load: of the machine, in the last minute.
    """

    workers: int
    start_s: float
    blocks_s: float
    markers: tuple[Marker, ...]
    rest_cpu_s: float
    load: float


@dataclass(frozen=True)
class Measured:
    """All of it.

    Attributes:
        cores: of this machine.
        runs: the first with 1 worker.
        driver_s: of driver and scheduler a block, by the clock, with the workers on the same cores.
        intake_bytes_s: what one actor's process takes in from as many senders as its gate lets in.
        send_cpu_s_byte: processor seconds of both ends a byte.
    """

    cores: int
    runs: tuple[MeasuredRun, ...]
    driver_s: float
    intake_bytes_s: float
    send_cpu_s_byte: float


def measure_inputs(inputs: Inputs) -> Measured:
    """Run the range with each number of workers, and measure driving and sending on the last of them."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "range"
        document = simulated_range(home, inputs.range, (YEAR,), SEED, lambda text: None)
        document["tiling"] = {"tile_px": 256, "block_px": inputs.block_px}
        with serve(home / "simulated") as url:
            document["catalogs"] = [{"url": url}]
            for count in inputs.workers:
                begun = time.perf_counter()
                with workers(ClusterSpec("local", cpu_workers=count)) as found:
                    started_s = time.perf_counter() - begun
                    runs.append(measure_run(document, found, count, started_s))
                    if count == inputs.workers[-1]:
                        driver_s = measure_driver(found, inputs.idle_blocks)
                        sending = measure_sending(found, inputs.sent_bytes)
    return Measured(cores(), tuple(runs), driver_s, *sending)


def measure_run(document: Mapping[str, Any], found: Workers, count: int, started_s: float) -> MeasuredRun:
    """The range mapped by ``count`` workers, which took ``started_s`` to start."""
    cluster = {"kind": found.client.scheduler.address, "cpu_workers": count}
    moments: list[tuple[str, float]] = []
    used: list[tuple[float, float]] = []

    def note(_: object) -> None:
        used.append((time.time(), processes.family_cpu_s(os.getpid())))

    with tempfile.TemporaryDirectory() as out:
        settings = load_config({**document, "cluster": cluster})
        run(settings, out, on_progress=note, on_stage=lambda text: moments.append((text, time.time())))
        load = record.machine()["load"]
        markers = tuple(Ledger(out).markers())
    number = next(n for n, (text, _) in enumerate(moments) if text.startswith("mapping on"))
    first = min(min(marker.starts.values()) for marker in markers)
    start_s = started_s + first - moments[number][1]
    rest_s = rest_cpu_s(markers, used[0], used[-1])
    return MeasuredRun(count, start_s, moments[number + 1][1] - first, markers, rest_s, load)


def rest_cpu_s(markers: Sequence[Marker], begin: tuple[float, float], end: tuple[float, float]) -> float:
    """Processor seconds a block that no stage counts, between two moments (time, seconds of all processes).

    Of a stage that was under way at the first moment the share of its time after it is counted.
    """
    counted = total = 0.0
    for marker in markers:
        for stage, cpu_s in marker.cpu_seconds.items():
            until = marker.starts[stage] + marker.seconds[stage]
            share = (until - begin[0]) / max(marker.seconds[stage], 1e-9)
            counted += cpu_s * min(max(share, 0.0), 1.0)
            total += cpu_s
    blocks = len(markers) * counted / total if total else 0.0
    return max(end[1] - begin[1] - counted, 0.0) / blocks if blocks else 0.0


def measure_driver(found: Workers, blocks: int) -> float:
    """Seconds a block of the real driver, fleet and ledger, and of Dask, where the block does nothing."""
    works, whole = idle.works(blocks), orchestration.WHOLE
    orchestration.drive(found, "local", whole, works[:8], orchestration.Account())
    return orchestration.drive(found, "local", whole, works, orchestration.Account())["wall_ms"] / 1000


class Sink:
    """An actor that takes an array and does nothing with it."""

    def take(self, array: NDArray[np.float32]) -> int:
        """Its bytes."""
        return int(array.nbytes)


def send(ref: ActorRef, size: int, times: int) -> int:
    """Send an array of ``size`` bytes to an actor so many times; the bytes."""
    array = np.ones(size // 4, np.float32)
    return sum(call_actor(ref, "take", array, deadline_s=ACTOR_DEADLINE_S) for _ in range(times))


def measure_sending(found: Workers, size: int) -> tuple[float, float]:
    """Bytes a second into one actor's process from as many tasks as it lets in, and CPU seconds a byte.

    Both are medians of some turns: on a machine that others share they have been found from 1.3 to 2.9 GB/s.
    """
    future = found.client.submit(Sink, actor=True, resources={GPU: 1})  # the actor goes with it
    ref = ActorRef.of(future.result())
    others = [address for address in workers_at(found.client) if address != ref.address]
    _sent(found, send, [(ref, size, 1)] * PLACES, others)  # connections are made, modules imported
    rates, costs = [], []
    for _ in range(TURNS):
        begun, cpu = time.perf_counter(), processes.family_cpu_s(os.getpid())
        sent = _sent(found, send, [(ref, size, SENDINGS)] * PLACES, others)
        took, used = time.perf_counter() - begun, processes.family_cpu_s(os.getpid()) - cpu
        rates.append(sent / took)
        costs.append(used / sent)
    return median(rates), median(costs)


def _sent(
    found: Workers, task: Callable[..., int], calls: Sequence[tuple[Any, ...]], among: Sequence[str]
) -> int:
    """The tasks' sum; ``among`` are the workers that may run them: the actor's own sends nothing."""
    place = {"workers": list(among)} if among else {}
    futures = [found.client.submit(task, *call, pure=False, resources={CPU: 1}, **place) for call in calls]
    wait(futures)
    return sum(found.client.gather(futures))
