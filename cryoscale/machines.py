"""The machines of a cluster whose workers do blocks: each is to do what lies side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryoscale.roster import CPU

LEAVING = frozenset({"closing_gracefully", "closing"})
"""What Dask calls the state of a worker that takes no more tasks and is to go."""


@dataclass(frozen=True)
class Machines:
    """Who is there, as the scheduler told it last.

    Attributes:
        tasks: block tasks that each machine runs at once, by its host name or address.
        leaving: machines that do blocks no more, of whose workers some are still there.
    """

    tasks: Mapping[str, int] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()

    @classmethod
    def of(cls, workers: Mapping[str, Any]) -> Machines:
        """Those of workers by their address (:func:`cryoscale.roster.workers_at`)."""
        tasks: Counter[str] = Counter()
        leaving = set()
        for address, info in workers.items():
            if at_once := int(info["resources"].get(CPU, 0)):
                if info.get("status") in LEAVING:
                    leaving.add(machine_of(address))
                else:
                    tasks[machine_of(address)] += at_once
        return cls(tasks, frozenset(leaving - tasks.keys()))

    @property
    def at_once(self) -> int:
        """Block tasks that all of them run at once."""
        return sum(self.tasks.values())

    def roomiest(self, dealt: Mapping[str | None, int], waiting: int, ahead: int) -> str | None:
        """The machine with most room for a block, each being ``dealt`` so many; None: any may do it.

        The last blocks of all, as many as are dealt ``ahead`` to each task that runs at once, are for whoever
        is free, as Dask finds out: on a slow machine they would wait.
        """
        if len(self.tasks) < 2 or waiting <= ahead * self.at_once:
            return None
        return min(self.tasks, key=lambda name: dealt.get(name, 0) / self.tasks[name])


def machine_of(address: str) -> str:
    """The host of a worker's address: a pod has one of its own."""
    from distributed.comm.addressing import get_address_host

    return str(get_address_host(address))
