"""``cryoscale plan --cluster``: the cluster of each row, and what all of it rests on, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cryoscale.forecast.capacity import (
    FINISH_S,
    BlockCost,
    Fleet,
    Site,
    fleet_for,
)
from cryoscale.forecast.rgi import ICE_PCT, Blocks
from cryoscale.infer.wire import INTAKE_BYTES_S

_MACHINES = ("region", "area km2", "blocks", "GPUs", "busy %", "CPU workers", "CPU nodes", "hours", "slowest")
_AMOUNTS = ("region", "GPU hours", "CPU worker hours", "then hours", "fetched TB", "stored GB")


@dataclass(frozen=True)
class Basis:
    """What a cluster's plan rests on, in words: rates of CPU and GPU (or None), and what is assumed."""

    rates: str
    gpu_rate: str | None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterPlan:
    """What ``cryoscale plan --cluster`` prints.

    Attributes:
        rows: where, with the clusters for the fewest and for the most blocks.
        years: how many are mapped.
        cost: of a block in one year.
        site, basis: what it was reckoned for, and from.
    """

    rows: tuple[tuple[Blocks, Fleet, Fleet], ...]
    years: int
    cost: BlockCost
    site: Site
    basis: Basis

    @classmethod
    def of(
        cls, where: Sequence[Blocks], years: int, cost: BlockCost, site: Site, basis: Basis
    ) -> ClusterPlan:
        """The clusters of all rows."""
        rows = tuple(
            (row, fleet_for(row.fewest * years, cost, site), fleet_for(row.most * years, cost, site))
            for row in where
        )
        return cls(rows, years, cost, site, basis)

    @property
    def feed(self) -> float:
        """How many CPU workers keep one GPU as busy as it can be, where there are GPUs."""
        return self.site.worker_s(self.cost) / self.site.gpu_s(self.cost)

    @property
    def intake_gbit_s(self) -> float:
        """What such a GPU takes in."""
        return self.site.sent_bytes(self.cost) * 8e-9 / self.site.gpu_s(self.cost)

    @property
    def most_busy(self) -> float:
        """Share of the time in which such a GPU predicts, or makes channels."""
        return (self.site.predict_s(self.cost) + self.site.make_s(self.cost)) / self.site.gpu_s(self.cost)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        site = {name: value for name, value in vars(self.site).items() if name != "prices"}
        return {
            "rows": [
                {**asdict(where), "at_least": asdict(few), "at_most": asdict(many)}
                for where, few, many in self.rows
            ],
            "years": self.years,
            "block": {
                **asdict(self.cost),
                "cpu_s": self.cost.cpu_s,
                **(self._of_gpus() if self.site.has_gpus else {}),
            },
            "site": {**site, "prices": self.site.prices.model_dump(mode="json")},
            "feed": {
                "cpu_workers_a_gpu": self.feed,
                "gbit_s_a_gpu": self.intake_gbit_s,
                "gpu_busy_at_most": self.most_busy,
            }
            if self.site.has_gpus
            else None,
            **asdict(self.basis),
        }

    def _of_gpus(self) -> dict[str, float]:
        """What a block takes of a GPU and of the way there."""
        return {
            "gpu_s": self.site.predict_s(self.cost),
            "make_s": self.site.make_s(self.cost),
            "sent_bytes": self.site.sent_bytes(self.cost),
        }

    def text(self) -> str:
        """For people."""
        site, basis = self.site, self.basis
        prices = any(few.money for _, few, _ in self.rows)
        amounts = (*_AMOUNTS, "cost") if prices else _AMOUNTS
        lines = _aligned([_MACHINES, *(_machines(where, few, many) for where, few, many in self.rows)])
        lines += _aligned([amounts, *(_amounts(where, few, many, prices) for where, few, many in self.rows)])
        lines += [
            *self._too_late(),
            *(self._with_gpus() if site.has_gpus else self._without_gpus()),
            "then: levels, outlines, divides and report, on the driver's machine and without GPUs; at most, "
            f"as by one process where all is ice ({FINISH_S:g} s a block)",
            *(f"assumed: {line}" for line in basis.assumed),
        ]
        return "\n".join(lines)

    def _block(self, beside: str) -> str:
        """What a block takes of CPU workers, with what else of them, and what else there is."""
        cost = self.cost
        return (
            f"a block and year: {cost.cpu_s:.3g} s of a core (reading {cost.read_s:.3g}, features "
            f"{cost.features_s:.3g}, {beside}writing {cost.write_s:.3g}; {self.basis.rates}), "
            f"{cost.wait_s:.3g} s of waiting"
        )

    def _with_gpus(self) -> list[str]:
        """What a block takes, and what feeds a GPU."""
        cost, site = self.cost, self.site
        return [
            f"{self._block('')}, {site.predict_s(cost):.3g} s of a GPU ({cost.tiles:,.0f} tiles)",
            *filter(None, [self.basis.gpu_rate]),
            *self._made_there(),
            f"a GPU that {self._waits()} takes {self.feed:,.0f} CPU workers ({site.worker_cores} cores, "
            f"{site.worker_gib:g} GiB, two blocks each), {self.feed / site.workers_a_node:,.1f} nodes of "
            f"{site.node_cores} cores and {site.node_gib:g} GiB, and {self.intake_gbit_s:,.1f} Gbit/s "
            "into its node",
        ]

    def _without_gpus(self) -> list[str]:
        """What a block takes where CPU workers predict."""
        return [
            self._block(f"the network {self.cost.network_s:.3g} for {self.cost.tiles:,.0f} tiles, "),
            "no GPU, as the configuration has none: CPU workers predict on their own cores",
        ]

    def _too_late(self) -> list[str]:
        """Where the hours that all shall be done in are not enough."""
        asked_h, block_s = self.site.hours, self.site.round_s(self.cost)
        if asked_h is None:
            return []
        late = [where.label for where, _, many in self.rows if many.hours > asked_h * (1.0 + 1e-6)]
        told = f"one block takes {block_s:.3g} s of the clock"
        return [f"not done in {asked_h:g} h, see slowest: {', '.join(late)}; {told}"] if late else []

    def _made_there(self) -> list[str]:
        """Whether GPUs make channels, and what of."""
        if not self.site.derives(self.cost):
            return []
        made = f"{self.site.make_s(self.cost):.3g} s a block beside the network, reckoned and not measured"
        numbers, channels = self.site.numbers_bytes_px, self.site.channels_bytes_px
        sent = f"are sent {numbers} bytes a pixel in the place of {channels}"
        tried = ", if a trial before the run finds it to pay" if self.site.derive_on == "auto" else ""
        return [f"GPUs make channels of bands and {sent} ({made}){tried}"]

    def _waits(self) -> str:
        """Whether it waits, and what for."""
        if self.most_busy > 0.995:
            return "never waits"
        by_link = self.site.link_s(self.cost) > self.site.intake_s(self.cost)
        for_what = "its link" if by_link else f"its intake of {INTAKE_BYTES_S / 1e9:.3g} GB/s"
        return f"waits for nothing but {for_what}, and works {100 * self.most_busy:.0f} % of the time,"


def assumed_ice(ice_pct: tuple[float, float] | None) -> str:
    """The assumption that makes blocks of areas, in words."""
    if ice_pct is not None:
        return f"ice covers {ice_pct[0]:g} to {ice_pct[1]:g} % of the blocks that are mapped, as given"
    sizes = ("less than 1 km2", "1 to 10 km2", "more")
    parts = [f"{low:g}-{high:g} % ({size})" for size, (_, (low, high)) in zip(sizes, ICE_PCT, strict=True)]
    return (
        f"ice covers so much of the blocks that are mapped, by the mean size of a region's glaciers: "
        f"{', '.join(parts)}; hence ranges. --outlines FILE counts blocks, --ice-pct says another share"
    )


def assumed_dates(dates: int, latency_ms: float | None) -> str:
    """The assumption on scenes, in words."""
    late = (
        "" if latency_ms is None else f", each chunk {latency_ms:g} ms after it is asked for (--latency-ms)"
    )
    return (
        f"scenes of {dates} dates are read (--dates){late}, every block as a whole; fetched is what they "
        "hold unpacked, thus at most. cryoscale plan CONFIG --cluster counts"
    )


def _machines(where: Blocks, few: Fleet, many: Fleet) -> tuple[str, ...]:
    return (
        where.label,
        f"{where.area_km2:,.0f}",
        _between(where.fewest, where.most),
        _between(few.gpus, many.gpus),
        _between(*(round(100 * fleet.busy.get("GPUs", 0.0)) for fleet in (few, many))),
        _between(few.workers, many.workers),
        _between(few.cpu_nodes, many.cpu_nodes),
        _between(few.hours, many.hours),
        few.bound if few.bound == many.bound else f"{few.bound}, {many.bound}",
    )


def _amounts(where: Blocks, few: Fleet, many: Fleet, prices: bool) -> tuple[str, ...]:
    cells = (
        where.label,
        *(_between(getattr(few, name), getattr(many, name)) for name in ("gpu_hours", "cpu_hours")),
        _between(few.finish_hours, many.finish_hours),
        _scaled(few.fetched_bytes, many.fetched_bytes, 1e12),
        _scaled(few.stored_bytes, many.stored_bytes, 1e9),
    )
    return (*cells, _between(few.money["total"], many.money["total"])) if prices else cells


def _scaled(low: float | None, high: float | None, unit: float) -> str:
    return "?" if low is None or high is None else _between(low / unit, high / unit)


def _between(low: float, high: float) -> str:
    """A range, or the one figure where both read the same."""
    least, most = _figure(min(low, high)), _figure(max(low, high))
    return least if least == most else f"{least}-{most}"


def _figure(value: float) -> str:
    if isinstance(value, int) or value >= 100.0:
        return f"{value:,.0f}"
    if 0.0 < value < 0.001:
        return "<0.001"
    return f"{value:.2g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
