"""The simulator of runs against queues reckoned by hand, and against what no machine can exceed."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling.forecast import RELIEFS
from benchmarks.scaling.simulator import Clock, Job, Shared, Site, simulate

ALONE = Site(nodes=1, tasks=1, cores=1.0, actors=1)
SECONDS = st.floats(0.01, 10.0)

JOBS = st.builds(
    Job,
    wait_s=st.floats(0.0, 5.0),
    read_cpu_s=SECONDS,
    features_cpu_s=SECONDS,
    predict_s=SECONDS,
    write_cpu_s=SECONDS,
    fetched_bytes=st.floats(0.0, 1e9),
    sent_bytes=st.floats(0.0, 1e9),
    read_threads=st.sampled_from([1.0, 8.0]),
)
SITES = st.builds(
    Site,
    nodes=st.integers(1, 3),
    tasks=st.integers(1, 6),
    cores=st.sampled_from([1.0, 2.0, 4.0]),
    actors=st.integers(1, 4),
    actors_on_nodes=st.booleans(),
    link_bytes_s=st.sampled_from([1e8, math.inf]),
    store_bytes_s=st.sampled_from([1e8, math.inf]),
    intake_bytes_s=st.sampled_from([1e8, math.inf]),
    driver_s=st.sampled_from([0.0, 0.5]),
    places=st.integers(1, 3),
    start_s=st.sampled_from([0.0, 3.0]),
)


def alone_s(job: Job, site: Site) -> float:
    """Seconds of a block that has everything to itself."""
    threads = min(job.read_threads, site.cores)
    moved = job.fetched_bytes / min(site.link_bytes_s, site.store_bytes_s)
    moved += max(job.fetched_bytes, job.sent_bytes) / site.link_bytes_s + job.sent_bytes / site.intake_bytes_s
    computed = job.read_cpu_s / threads + job.features_cpu_s + job.predict_s + job.write_cpu_s
    return job.wait_s + moved + computed + site.driver_s


@given(JOBS, SITES)
def test_a_block_that_is_alone_takes_the_sum_of_its_stages(job: Job, site: Site) -> None:
    assert simulate([job], site).wall_s == pytest.approx(site.start_s + alone_s(job, site))


@given(st.lists(SECONDS, min_size=1, max_size=30))
def test_one_server_takes_the_sum_of_its_customers(times: list[float]) -> None:
    course = simulate([Job(read_cpu_s=time) for time in times], ALONE)
    assert course.wall_s == pytest.approx(sum(times))
    assert course.busy["cores"] == pytest.approx(1.0)


@given(st.integers(1, 40), st.integers(1, 8), SECONDS)
def test_as_many_servers_as_there_are_take_one_batch_after_the_other(
    n: int, servers: int, time: float
) -> None:
    site = replace(ALONE, tasks=servers, cores=float(servers))
    assert simulate([Job(read_cpu_s=time)] * n, site).wall_s == pytest.approx(math.ceil(n / servers) * time)


@given(st.integers(1, 30), SECONDS, SECONDS)
def test_a_line_of_two_stations_is_paced_by_the_second(n: int, first: float, second: float) -> None:
    site = replace(ALONE, tasks=n, cores=float(n), places=n)
    wall_s = simulate([Job(read_cpu_s=first, predict_s=second)] * n, site).wall_s
    assert wall_s == pytest.approx(first + n * second)


@given(st.integers(1, 5), SECONDS, st.lists(SECONDS, min_size=1, max_size=30))
def test_blocks_wait_for_a_task_and_for_the_device_in_their_order(
    tasks: int, read_s: float, predicts_s: list[float]
) -> None:
    free, device_s, ends = [0.0] * tasks, 0.0, []
    for predict_s in predicts_s:  # a loop over the blocks in place of events
        device_s = max(heapq.heappop(free) + read_s, device_s) + predict_s
        heapq.heappush(free, device_s)
        ends.append(device_s)
    site = replace(ALONE, tasks=tasks, cores=float(tasks), places=tasks)
    jobs = [Job(read_cpu_s=read_s, predict_s=predict_s) for predict_s in predicts_s]
    assert simulate(jobs, site).wall_s == pytest.approx(max(ends))


@given(st.integers(1, 20), SECONDS, SECONDS)
def test_with_one_place_a_block_is_sent_only_after_the_last_was_predicted(
    n: int, send_s: float, predict_s: float
) -> None:
    site = replace(ALONE, tasks=n, cores=float(n), places=1, intake_bytes_s=1e6)
    wall_s = simulate([Job(sent_bytes=send_s * 1e6, predict_s=predict_s)] * n, site).wall_s
    assert wall_s == pytest.approx(n * (send_s + predict_s))


@given(st.lists(SECONDS, min_size=1, max_size=12), st.floats(0.5, 12.0))
def test_what_is_shared_is_shared_in_equal_parts(works: list[float], capacity: float) -> None:
    clock, ends = Clock(), dict[int, float]()
    shared = Shared(clock, capacity)
    for number, work in enumerate(works):
        shared.take(work, 1.0, lambda number=number: ends.update({number: clock.now}))
    clock.run()
    now, done = 0.0, 0.0
    for rank, number in enumerate(sorted(range(len(works)), key=works.__getitem__)):
        now += (works[number] - done) / min(1.0, capacity / (len(works) - rank))
        done = works[number]
        assert ends[number] == pytest.approx(now)


LAW = Job(1.0, 8.0, 1.0, 0.5, 0.5, fetched_bytes=4e8, sent_bytes=2e8)
MACHINES = ("cores", "links", "store", "intake", "actors", "driver")
AMPLE = Site(nodes=20, tasks=32, cores=16.0, actors=20)


@pytest.mark.parametrize(
    ("site", "rate", "name"),
    [
        (replace(AMPLE, nodes=1, tasks=64), 16 / 9.5, "cores"),
        (replace(AMPLE, actors=2), 2 / 0.5, "actors"),
        (replace(AMPLE, store_bytes_s=2e9, link_bytes_s=1e9), 2e9 / 4e8, "store"),
        (replace(AMPLE, nodes=4, cores=99.0, link_bytes_s=4e8), 4.0, "links"),
        (replace(AMPLE, actors=4, places=9, intake_bytes_s=2e8), 4.0, "intake"),
        (replace(AMPLE, driver_s=0.2), 5.0, "driver"),
        (replace(AMPLE, nodes=1, tasks=4), 4 / (1 + 9.5 + 0.5), "tasks"),
    ],
)
def test_a_long_run_is_as_fast_as_its_bottleneck(site: Site, rate: float, name: str) -> None:
    # waits of all lengths, since blocks that go in step crowd one resource after the other
    jobs = [replace(LAW, wait_s=2 * n / 2999) for n in random.Random(0).sample(range(3000), 3000)]
    course = simulate(jobs, site)
    assert len(jobs) / course.wall_s == pytest.approx(rate, rel=0.06)
    assert course.busy[name] == pytest.approx(len(jobs) / course.wall_s / rate, rel=0.02)
    assert course.busy[name] == max(share for key, share in course.busy.items() if key in (name, *MACHINES))


@settings(max_examples=60, deadline=None)
@given(st.lists(JOBS, min_size=1, max_size=25), SITES)
def test_no_run_is_faster_than_a_resource_allows(jobs: list[Job], site: Site) -> None:
    course = simulate(jobs, site)
    floors = [
        sum(job.read_cpu_s + job.features_cpu_s + job.write_cpu_s for job in jobs) / site.cores / site.nodes,
        sum(job.predict_s for job in jobs) / site.actors,
        sum(job.fetched_bytes for job in jobs) / site.store_bytes_s,
        sum(job.fetched_bytes for job in jobs) / site.link_bytes_s / site.nodes,
        sum(job.sent_bytes for job in jobs) / site.intake_bytes_s / site.actors,
        len(jobs) * site.driver_s,
        max(alone_s(job, site) for job in jobs),
        sum(alone_s(job, site) - site.driver_s for job in jobs) / site.tasks / site.nodes,
    ]
    assert course.wall_s >= (1 - 1e-9) * (site.start_s + max(floors))
    assert max(course.busy.values()) <= 1 + 1e-9
    assert simulate(jobs, site) == course


@settings(max_examples=60, deadline=None)
@given(JOBS, st.integers(1, 40), SITES)
def test_more_of_anything_makes_no_run_slower(job: Job, count: int, site: Site) -> None:
    jobs, wall_s = [job] * count, simulate([job] * count, site).wall_s
    # a queue may finish its last block somewhat later when another order befalls it, never by a whole block
    slack_s = alone_s(job, site)
    for name, give in RELIEFS.items():
        assert simulate(jobs, give(site)).wall_s <= wall_s + slack_s, name
    assert simulate([replace(job, predict_s=job.predict_s / 2)] * count, site).wall_s <= wall_s + slack_s
