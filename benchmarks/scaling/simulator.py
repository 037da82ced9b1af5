"""A run as a simulation of discrete events: who waits for whom, with stage times that are given.

Modelled is what the engine does with a block (``drive``, ``task``, ``infer.gate``, ``infer.actor``):

* the driver with its scheduler, one after the other: hands a block out, for the actor with least to do, while
  fewer than ``ahead`` blocks are out for each task that can run at once; takes it in when it is done;
* a task: waits for the store's answers, fetches, reads, computes features, asks its actor's gate for a place,
  sends the block, waits for the bands, writes. It holds its slot all the while;
* an actor: ``places`` blocks in its process at once, which take in bytes at a common rate, and predict one
  after the other.

Cores, links, the store and an actor's intake are shared: all that use one go on at the same time, each at
its own most, or all slowed alike where that exceeds what there is. The store and the link of a node are
passed one after the other, which makes a fetch a little longer than it is and changes the rate of neither.
Not modelled: failures, and what follows the last block.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Then = Callable[[], None]
Request = Callable[[Then], None]


@dataclass(frozen=True)
class Job:
    """One block: seconds of waiting, of the processor, and of the actor, and bytes.

    ``read_threads`` is how many cores reading can use at once; ``send_cpu_s`` is what sending costs both
    ends, where they share the cores of the tasks.
    """

    wait_s: float = 0.0
    read_cpu_s: float = 0.0
    features_cpu_s: float = 0.0
    predict_s: float = 0.0
    write_cpu_s: float = 0.0
    fetched_bytes: float = 0.0
    sent_bytes: float = 0.0
    send_cpu_s: float = 0.0
    read_threads: float = 1.0


@dataclass(frozen=True)
class Site:
    """The machines of a run; what is infinite limits nothing.

    Attributes:
        nodes: machines for tasks.
        tasks: block tasks that run at once on each node.
        cores: of each node.
        actors: one a GPU.
        actors_on_nodes: whether actors and what they take in use the cores of the nodes, as without a GPU.
        link_bytes_s: of each node, in either direction.
        store_bytes_s: of the object store, to all nodes together.
        intake_bytes_s: what one actor's process takes in.
        driver_s: of driver and scheduler a block, half of it to hand it out.
        places: blocks in an actor's process at once.
        ahead: blocks handed out for each task that can run at once.
        start_s: until the first block is handed out.
    """

    nodes: int
    tasks: int
    cores: float
    actors: int
    actors_on_nodes: bool = False
    link_bytes_s: float = math.inf
    store_bytes_s: float = math.inf
    intake_bytes_s: float = math.inf
    driver_s: float = 0.0
    places: int = 2
    ahead: int = 2
    start_s: float = 0.0


@dataclass(frozen=True)
class Course:
    """How a run went: its seconds, how busy each resource was in them (shares), when blocks were done."""

    wall_s: float
    busy: dict[str, float]
    ends_s: tuple[float, ...] = field(repr=False)

    @property
    def steady_rate(self) -> float:
        """Blocks a second without the quarter of them at the run's start and the one at its end."""
        first, last = len(self.ends_s) // 4, 3 * len(self.ends_s) // 4
        return (last - first) / (self.ends_s[last] - self.ends_s[first])


class Clock:
    """Events in the order of their time; those of the same time in the order in which they were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    def after(self, delay_s: float, what: Callable[..., None], *arguments: Any) -> None:
        """Call ``what`` in ``delay_s`` seconds."""
        self._made += 1
        heapq.heappush(self._events, (self.now + delay_s, self._made, what, arguments))

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now, _, what, arguments = heapq.heappop(self._events)
            what(*arguments)


class Shared:
    """A resource that all its users have at the same time, each at its own rate or all slowed alike.

    Since all are slowed by the same factor, a user's end is fixed on a clock of the resource's own that
    runs by that factor: one heap, whoever comes and goes.
    """

    def __init__(self, clock: Clock, capacity: float) -> None:
        self.clock, self.capacity = clock, capacity
        self.used = 0.0
        """Work done so far, in units of capacity times seconds."""
        self._own = self._last = self._demand = 0.0
        self._users: list[tuple[float, int, float, Then]] = []
        self._count = self._version = 0

    def take(self, work: float, rate: float, then: Then) -> None:
        """Do ``work`` at ``rate`` at most, then call ``then``."""
        if work <= 0.0 or math.isinf(rate):
            then()
            return
        self._advance()
        self._count += 1
        heapq.heappush(self._users, (self._own + work / rate, self._count, rate, then))
        self._demand += rate
        self.used += work
        self._plan()

    def _advance(self) -> None:
        self._own += (self.clock.now - self._last) * self._speed()
        self._last = self.clock.now

    def _speed(self) -> float:
        return min(1.0, self.capacity / self._demand) if self._demand > 0.0 else 1.0

    def _plan(self) -> None:
        self._version += 1
        if self._users:
            left = max(self._users[0][0] - self._own, 0.0)
            self.clock.after(left / self._speed(), self._end, self._version)

    def _end(self, version: int) -> None:
        if version != self._version:
            return  # somebody has come or gone since
        self._advance()
        self._own, _, rate, then = heapq.heappop(self._users)
        self._demand = self._demand - rate if self._users else 0.0
        self._plan()
        then()


class Queued:
    """A resource that serves one after the other, in the order in which they came."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.used = 0.0
        self._free_at = 0.0

    def take(self, seconds: float, then: Then) -> None:
        """Be served for ``seconds``, then call ``then``."""
        self._free_at = max(self._free_at, self.clock.now) + seconds
        self.used += seconds
        self.clock.after(self._free_at - self.clock.now, then)


class Gate:
    """Places, given in the order in which they were asked for."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.waiting: deque[Then] = deque()

    def enter(self, then: Then) -> None:
        """Call ``then`` once there is a place."""
        if self.places > 0:
            self.places -= 1
            then()
        else:
            self.waiting.append(then)

    def leave(self) -> None:
        """Give the place to whoever waited longest."""
        if self.waiting:
            self.waiting.popleft()()
        else:
            self.places += 1


@dataclass
class Actor:
    """A GPU with the process that feeds it."""

    intake: Shared
    process: Gate
    device: Gate = field(default_factory=lambda: Gate(1))
    load: int = 0
    """Blocks that are out for it."""
    busy_s: float = 0.0


class Run:
    """One run of blocks on a site."""

    def __init__(self, jobs: Sequence[Job], site: Site) -> None:
        self.site, self.clock = site, Clock()
        self.todo = deque(jobs)
        self.handed: deque[tuple[Job, Actor]] = deque()
        self.flying = 0
        self.ends_s: list[float] = []
        self.occupied_s = 0.0
        self.driver = Queued(self.clock)
        self.store = Shared(self.clock, site.store_bytes_s)
        self.cores = [Shared(self.clock, site.cores) for _ in range(site.nodes)]
        self.links = [Shared(self.clock, site.link_bytes_s) for _ in range(site.nodes)]
        self.actors = [
            Actor(Shared(self.clock, site.intake_bytes_s), Gate(site.places)) for _ in range(site.actors)
        ]
        # one slot of each node in turn: the first blocks lie on all nodes
        self.slots = deque(node for _ in range(site.tasks) for node in range(site.nodes))
        self.clock.after(site.start_s, self._hand_out)

    def course(self) -> Course:
        """Run to the end."""
        self.clock.run()
        site, wall_s = self.site, self.ends_s[-1]
        used = {
            "cores": (sum(one.used for one in self.cores), site.cores * site.nodes),
            "links": (sum(one.used for one in self.links), site.link_bytes_s * site.nodes),
            "store": (self.store.used, site.store_bytes_s),
            "intake": (sum(one.intake.used for one in self.actors), site.intake_bytes_s * site.actors),
            "actors": (sum(one.busy_s for one in self.actors), site.actors),
            "driver": (self.driver.used, 1.0),
            "tasks": (self.occupied_s, site.tasks * site.nodes),
        }
        busy = {name: amount / (most * wall_s) for name, (amount, most) in used.items()}
        return Course(wall_s, busy, tuple(self.ends_s))

    def _hand_out(self) -> None:
        limit = self.site.ahead * self.site.tasks * self.site.nodes
        while self.todo and self.flying < limit:
            self.flying += 1
            actor = min(self.actors, key=lambda actor: actor.load)
            actor.load += 1
            job = self.todo.popleft()
            self.driver.take(self.site.driver_s / 2, lambda job=job, actor=actor: self._arrive(job, actor))

    def _arrive(self, job: Job, actor: Actor) -> None:
        self.handed.append((job, actor))
        self._start()

    def _start(self) -> None:
        while self.handed and self.slots:
            job, actor = self.handed.popleft()
            _go_on(self._block(job, actor, self.slots.popleft()))

    def _block(self, job: Job, actor: Actor, node: int) -> Iterator[Request]:
        site, cores, began = self.site, self.cores[node], self.clock.now
        yield lambda then: self.clock.after(job.wait_s, then)
        fetching = min(site.store_bytes_s, site.link_bytes_s)
        yield lambda then: self.store.take(job.fetched_bytes, fetching, then)
        # a link carries both ways at once: the way with more to carry decides
        carried = max(job.fetched_bytes, job.sent_bytes)
        yield lambda then: self.links[node].take(carried, site.link_bytes_s, then)
        yield lambda then: cores.take(job.read_cpu_s, min(job.read_threads, site.cores), then)
        yield lambda then: cores.take(job.features_cpu_s, 1.0, then)
        yield actor.process.enter
        yield lambda then: cores.take(job.send_cpu_s, min(2.0, site.cores), then)  # both ends at work
        yield lambda then: actor.intake.take(job.sent_bytes, site.intake_bytes_s, then)
        yield actor.device.enter
        began_s = self.clock.now
        if site.actors_on_nodes:
            yield lambda then: cores.take(job.predict_s, 1.0, then)
        else:
            yield lambda then: self.clock.after(job.predict_s, then)
        actor.busy_s += self.clock.now - began_s
        actor.device.leave()
        actor.process.leave()
        yield lambda then: cores.take(job.write_cpu_s, 1.0, then)
        self.occupied_s += self.clock.now - began
        self.slots.append(node)
        self._start()
        yield lambda then: self.driver.take(site.driver_s / 2, then)
        self.ends_s.append(self.clock.now)
        self.flying -= 1
        actor.load -= 1
        self._hand_out()


def _go_on(block: Iterator[Request]) -> None:
    """Let a block make its next request; it goes on when that is met."""
    request = next(block, None)
    if request is not None:
        request(lambda: _go_on(block))


def simulate(jobs: Sequence[Job], site: Site) -> Course:
    """How a run of ``jobs`` on ``site`` goes; the same for the same arguments."""
    return Run(jobs, site).course()
