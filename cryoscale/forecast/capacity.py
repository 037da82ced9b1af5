"""What cluster so many blocks ask for: CPU nodes that feed GPUs, hours, money, and which side is slowest.

All sides work at the same time, and the slowest is the clock:

* **GPUs**: tiles of all blocks over the tiles that the actors predict;
* **CPU workers**: two tasks each (:mod:`cryoscale.cluster`), by their seconds of the clock, waiting
  included, or by processor seconds over the worker's cores where these are fewer than its tasks. They take
  blocks in rounds, two each, of which the last may leave some without one: no time is shorter than a round;
* **network**: features travel to the actors (:mod:`cryoscale.infer.wire`), over the link of a GPU's node,
  or what a GPU makes channels of (:mod:`cryoscale.features.packing`), as a run finds out (``derive_on``);
* **intake**: what arrives there is taken in by the one process of each actor, ``wire.INTAKE_BYTES_S``;
* **scenes**: whoever holds them sends them, all workers together, where it is said how fast;
* **driver**: one process hands all blocks out, :data:`DRIVER_S` each.

Workers are counted so that another side is the slowest, or that all is done in time, and never so many that
some would have no block; GPUs then wait for them.
Nodes are counted whole. The start of nodes, images and models is not in it.
What comes after the last block is told beside it: GPUs can be given back by then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryoscale.errors import ConfigError
from cryoscale.features.channels import CHANNELS
from cryoscale.features.packing import bytes_a_pixel
from cryoscale.forecast.rates import Prices
from cryoscale.infer.wire import BYTES_A_CHANNEL, INTAKE_BYTES_S
from cryoscale.settings import DeriveOn

TARGET_TILES_S: Final = 2500.0
"""Tiles of 256 px a second of the full CryoNet on an H200: the target of the design, never measured."""

MAKE_S_PX: Final = 1.2e-9
"""Of a GPU, in which it makes the channels of a pixel: reckoned from the bytes that its steps move, at 4.3
TB/s, benchmarks/results/wire.jsonl; never measured."""

DRIVER_S: Final = 0.0045
"""Of the clock a block, on 2 cores: benchmarks/results/orchestration.jsonl, the scheduler of its own."""

FINISH_S: Final = 3.1
"""Of one process for what follows the last block, a block of 2048 px, at most: the slope from 256 to 1,024
blocks of 512 px of ice that is connected throughout, benchmarks/results/memory.jsonl."""

PEAK_GIB: Final = 4.4
"""Most memory of a CPU worker with two blocks of 2048 px in work: benchmarks/results/pod_memory.jsonl."""

TASKS_A_WORKER: Final = 2

_LEAST, _MOST = 1e-6, 1e12
"""Of what a site is asked about: beyond, no figure of it is one."""


@dataclass(frozen=True)
class BlockCost:
    """What one block takes in one year.

    Attributes:
        read_s, features_s, write_s: of one processor.
        wait_s: of the clock, beside that, for scenes.
        tiles: passes of the network over a tile with data.
        whole_tiles: tiles of a block that has data throughout.
        sent_px: pixels on their way to an actor, those of the rim among them.
        fetched_bytes: of scenes; None where not counted.
        stored_bytes: of map, levels, pictures, ledger; None where no rate is known.
        network_s: of one processor, where CPU workers predict; 0 where GPUs do.
    """

    read_s: float
    features_s: float
    write_s: float
    wait_s: float
    tiles: float
    whole_tiles: float
    sent_px: float
    fetched_bytes: float | None
    stored_bytes: float | None
    network_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        """Of one processor, all stages of a CPU worker."""
        return self.read_s + self.features_s + self.network_s + self.write_s


@dataclass(frozen=True)
class Site:
    """The machines that are asked about, and how fast and dear they are.

    Attributes:
        tiles_s: tiles a second of a GPU, and where the figure is from.
        gpus: how many there are; or
        hours: in how many the blocks shall be mapped.
        has_gpus: whether there are any; else CPU workers predict, and nothing is sent.
        cpu_workers: how many there are; None for as many as it takes.
        node_cores, node_gib: of a CPU node, what pods may ask of it.
        worker_cores, worker_gib: what the pod of a CPU worker asks for.
        node_gpus, node_gbit_s: of a GPU node; its link unlimited where None.
        scenes_gbit_s: what the scenes' store sends, unlimited where None.
        channels: of the network.
        derive_on: who makes them of bands, as in a configuration.
        prices: of a worker's hour, of a GPU's, of 1e9 bytes fetched.
    """

    tiles_s: float = TARGET_TILES_S
    gpus: int | None = None
    hours: float | None = None
    has_gpus: bool = True
    cpu_workers: int | None = None
    node_cores: int = 16
    node_gib: float = 64.0
    worker_cores: int = 2
    worker_gib: float = 8.0
    node_gpus: int = 1
    node_gbit_s: float | None = None
    scenes_gbit_s: float | None = None
    channels: tuple[str, ...] = CHANNELS
    derive_on: DeriveOn = "auto"
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        known = {
            "tiles a second of a GPU": self.tiles_s,
            "GPUs": self.gpus,
            "hours": self.hours,
            "CPU workers": self.cpu_workers,
            "cores of a node": self.node_cores,
            "GiB of a node": self.node_gib,
            "cores of a worker": self.worker_cores,
            "GiB of a worker": self.worker_gib,
            "GPUs of a node": self.node_gpus,
            "Gbit/s of a GPU node": self.node_gbit_s,
            "Gbit/s of scenes": self.scenes_gbit_s,
        }
        for name, value in known.items():
            if value is not None and not _LEAST <= value <= _MOST:
                told = str(value) if isinstance(value, int) else f"{value:g}"
                raise ConfigError(f"{told} {name}", f"a number from {_LEAST:g} to {_MOST:g}", "correct it")
        if self.gpus is not None and self.hours is not None:
            raise ConfigError(
                f"{self.gpus} GPUs and {self.hours:g} hours",
                "one of both",
                "leave one out: the other follows",
            )
        if self.worker_gib < PEAK_GIB:
            raise ConfigError(
                f"CPU workers of {self.worker_gib:g} GiB",
                f"{PEAK_GIB:g} at least, which two blocks of 2048 px take",
                "give them more",
            )
        if not self.workers_a_node:
            raise ConfigError(
                f"CPU nodes of {self.node_cores} cores and {self.node_gib:g} GiB",
                f"the {self.worker_cores} cores and {self.worker_gib:g} GiB of a worker at least",
                "name larger nodes",
            )

    @property
    def workers_a_node(self) -> int:
        """How many CPU workers a node carries, by cores and memory."""
        return min(self.node_cores // self.worker_cores, int(self.node_gib / self.worker_gib))

    def gpu_s(self, cost: BlockCost) -> float:
        """Seconds that a GPU takes for a block, by its own speed, its share of the link or its intake."""
        if not self.has_gpus:
            return 0.0
        return max(self.predict_s(cost) + self.make_s(cost), self.link_s(cost), self.intake_s(cost))

    def predict_s(self, cost: BlockCost) -> float:
        """Seconds that a GPU predicts for a block."""
        return cost.tiles / self.tiles_s

    def link_s(self, cost: BlockCost) -> float:
        """Seconds in which a GPU's share of its node's link brings a block."""
        if self.node_gbit_s is None:
            return 0.0
        return self.sent_bytes(cost) * 8.0 / (self.node_gbit_s * 1e9 / self.node_gpus)

    def intake_s(self, cost: BlockCost) -> float:
        """Seconds in which an actor's process takes a block in."""
        return self.sent_bytes(cost) / INTAKE_BYTES_S

    @property
    def channels_bytes_px(self) -> int:
        """Of features in bf16."""
        return BYTES_A_CHANNEL * len(self.channels)

    @property
    def numbers_bytes_px(self) -> int:
        """Of what they are made of."""
        return bytes_a_pixel(self.channels)

    def sent_bytes(self, cost: BlockCost) -> float:
        """What an actor is sent of a block: channels, or what it makes them of."""
        return cost.sent_px * (self.numbers_bytes_px if self.derives(cost) else self.channels_bytes_px)

    def derives(self, cost: BlockCost) -> bool:
        """Whether GPUs make channels: where that is told, or a run's trial would find it to pay.

        That knows what an actor's process takes in, and nothing of the link of its node or of tiles without
        data.
        """
        if self.derive_on != "auto":
            return self.derive_on == "device"
        tile_s, tile_px = 1.0 / self.tiles_s, cost.sent_px / cost.whole_tiles
        takes_s = max(tile_s + tile_px * MAKE_S_PX, tile_px * self.numbers_bytes_px / INTAKE_BYTES_S)
        return takes_s < max(tile_s, tile_px * self.channels_bytes_px / INTAKE_BYTES_S)

    def make_s(self, cost: BlockCost) -> float:
        """Seconds in which a GPU makes the channels of a block, if it does."""
        return cost.sent_px * MAKE_S_PX if self.derives(cost) else 0.0

    def scenes_s(self, cost: BlockCost) -> float:
        """Seconds in which the scenes' store sends those of a block, at most."""
        if self.scenes_gbit_s is None or cost.fetched_bytes is None:
            return 0.0
        return cost.fetched_bytes * 8.0 / (self.scenes_gbit_s * 1e9)

    def round_s(self, cost: BlockCost) -> float:
        """Seconds in which all tasks of a CPU worker do a block each, side by side."""
        on_cores_s = TASKS_A_WORKER * cost.cpu_s / min(self.worker_cores, TASKS_A_WORKER)
        return max(on_cores_s, cost.cpu_s + cost.wait_s + self.gpu_s(cost))

    def worker_s(self, cost: BlockCost) -> float:
        """Seconds that a CPU worker takes for a block, on average over a round."""
        return self.round_s(cost) / TASKS_A_WORKER


@dataclass(frozen=True)
class Fleet:
    """The cluster for so many blocks, and what it takes.

    Attributes:
        blocks: in all years.
        hours: of the clock, from the first block to the last.
        bound: the side that is slowest.
        busy: of each side, the share of that time in which it works.
        gpu_hours, cpu_hours: of GPUs and of CPU workers, held all the while.
        finish_hours: after the last block, at most: of one process, where several share the work.
        fetched_bytes, stored_bytes: None where not known.
        money: of what a price is given for, and in all.
    """

    blocks: int
    gpus: int
    gpu_nodes: int
    workers: int
    cpu_nodes: int
    hours: float
    bound: str
    busy: Mapping[str, float]
    gpu_hours: float
    cpu_hours: float
    finish_hours: float
    fetched_bytes: float | None
    stored_bytes: float | None
    money: Mapping[str, float]


def fleet_for(blocks: int, cost: BlockCost, site: Site) -> Fleet:
    """The cluster that maps ``blocks`` of ``cost`` each, as :class:`Site` asks.

    It takes longer than ``site.hours`` where no cluster is as quick, or none with as many workers.
    """
    gpus, workers, round_s = site.gpus or 1, site.cpu_workers, site.round_s(cost)
    aim_s = None if site.hours is None else max(site.hours * 3600.0, round_s)
    if aim_s is not None:
        gpus = _whole(blocks * site.gpu_s(cost) / aim_s)
    sides = {"scenes": blocks * site.scenes_s(cost), "driver": blocks * DRIVER_S}
    if site.has_gpus:
        sides |= {
            "GPUs": blocks * (site.predict_s(cost) + site.make_s(cost)) / gpus,
            "network": blocks * site.link_s(cost) / gpus,
            "intake": blocks * site.intake_s(cost) / gpus,
        }
    else:
        gpus = 0
    if workers is None:
        rounds = max(math.floor((aim_s or max(sides.values())) / round_s + 1e-9), 1)
        workers = math.ceil(blocks / (TASKS_A_WORKER * rounds))
    sides["CPU workers"] = math.ceil(blocks / (TASKS_A_WORKER * workers)) * round_s
    bound = max(sides, key=lambda side: sides[side])
    hours = sides[bound] / 3600.0
    fetched = None if cost.fetched_bytes is None else blocks * cost.fetched_bytes
    return Fleet(
        blocks=blocks,
        gpus=gpus,
        gpu_nodes=math.ceil(gpus / site.node_gpus),
        workers=workers,
        cpu_nodes=math.ceil(workers / site.workers_a_node),
        hours=hours,
        bound=bound,
        busy={side: taken / sides[bound] for side, taken in sides.items()},
        gpu_hours=hours * gpus,
        cpu_hours=hours * workers,
        finish_hours=blocks * FINISH_S / 3600.0,
        fetched_bytes=fetched,
        stored_bytes=None if cost.stored_bytes is None else blocks * cost.stored_bytes,
        money=_money(site.prices, hours * workers, hours * gpus, fetched),
    )


def _whole(count: float) -> int:
    """At least one, and no further one for an error of rounding."""
    return max(math.ceil(count - 1e-9), 1)


def _money(prices: Prices, cpu_hours: float, gpu_hours: float, fetched: float | None) -> dict[str, float]:
    money = dict[str, float]()
    if prices.cpu_hour is not None:
        money["cpu"] = prices.cpu_hour * cpu_hours
    if prices.gpu_hour is not None:
        money["gpu"] = prices.gpu_hour * gpu_hours
    if prices.gb is not None and fetched is not None:
        money["bytes"] = prices.gb * fetched / 1e9
    return {**money, "total": sum(money.values())} if money else {}
