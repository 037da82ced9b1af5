"""Which machine does which blocks: each has a stretch of the run's curve to itself.

Blocks that follow one another along the curve (:mod:`cryoscale.curve`) lie side by side and read the same
tiles of their scenes, which a machine that was sent them keeps for a while (:mod:`cryoscale.read.kept`).
Dealt one by one to whoever is free, neighbours would come to different machines, and most of what they share
be sent to each.

Nobody knows beforehand how quick a machine is, or how many there will be. So the first has the whole curve,
and one that has none, or has done with its own, is given the latter half of the longest stretch that is left
(lazy binary splitting: Tzannes et al. 2010, https://doi.org/10.1145/1693453.1693479).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Stretch(Generic[T]):
    """What is left of one, and whose it is; nobody's at first, and once its machine is gone."""

    work: deque[T]
    machine: str | None = None


class Dealing(Generic[T]):
    """Work in the order of a curve, of which each machine takes what lies side by side."""

    def __init__(self, work: Iterable[T] = ()) -> None:
        self._stretches = [_Stretch(deque(work))]

    def __len__(self) -> int:
        return sum(len(stretch.work) for stretch in self._stretches)

    def take(self, machine: str | None = None) -> T | None:
        """What ``machine`` is to do next, or any machine; None where nothing is left."""
        self._stretches = [stretch for stretch in self._stretches if stretch.work]
        if not self._stretches:
            return None
        mine = [stretch for stretch in self._stretches if stretch.machine == machine]
        return (mine[0] if mine else self._given(machine)).work.popleft()

    def keep(self, machines: Container[str]) -> None:
        """Take note of which machines are there: what others had left is nobody's."""
        for stretch in self._stretches:
            if stretch.machine is not None and stretch.machine not in machines:
                stretch.machine = None

    def _given(self, machine: str | None) -> _Stretch[T]:
        """A stretch for a machine that has none: one that is nobody's, or a part of the longest."""
        free = [stretch for stretch in self._stretches if stretch.machine is None]
        longest = max(free or self._stretches, key=lambda stretch: len(stretch.work))
        if machine is None:
            return longest
        if not free:
            count = len(longest.work) // 2
            kept = deque(longest.work.popleft() for _ in range(count))
            longest.work, half = kept, longest.work
            longest = _Stretch(half)
            self._stretches.append(longest)
        longest.machine = machine
        return longest
