"""The jobs of a benchmark and what each waits for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.accuracy.jobs import Job
from benchmarks.accuracy.scales import LEARNERS, NETWORKS, Place
from benchmarks.accuracy.steps import Bench, range_job, without

SUBJECT = "cryonet"
"""The network that splits, modalities and channels are compared on."""


def plan(bench: Bench, models: Sequence[str], seeds: int = 1) -> list[Job]:
    """All jobs that the tables of ``models`` need; long ones first among those that may start.

    Each seed after the first is a training of every learner from other weights and in another order of
    patches, with its maps, and comes after all that the seeds before it need.
    """
    learners = sorted((m for m in LEARNERS if m in models), key=_SLOWEST_FIRST.index)
    scale, places = bench.scale, (*bench.scale.test, *bench.scale.transfer)
    jobs = [Job("patches", (), bench.make_patches, slots=max(1, scale.wide // 2))] if learners else []
    jobs += [Job(range_job(place), (), partial(bench.make_range, place)) for place in places]
    trainings = [_training(bench, m) for m in learners]
    if SUBJECT in models:
        # What the subject is compared on trains as long as it does, and what starts last should be short.
        at = learners.index(SUBJECT) + 1
        trainings[at:at] = _trainings_of_the_subject(bench)
    jobs += trainings
    if SUBJECT in models:
        jobs.append(Job("importance", (f"train-{SUBJECT}",), partial(bench.importance, SUBJECT), heavy=True))
    networks = [m for m in learners if m in NETWORKS]
    if networks:
        ranges = len((*scale.tune, *scale.tune_validation, *scale.transfer))
        slots = max(1, min(scale.wide, ranges) // 2)
        jobs.append(Job("patches-transfer", ("patches",), bench.make_transfer, slots=slots))
    jobs += [
        Job(f"tune-{m}", (f"train-{m}", "patches-transfer"), partial(bench.tune, m), heavy=True)
        for m in networks
    ]
    if SUBJECT in models:
        jobs += _maps_of_the_subject(bench)
    jobs += [_map(bench, place, m) for m in learners for place in places]
    if "band-ratio" in models:
        jobs += [
            Job(
                f"map-{place.name}-band-ratio",
                (range_job(place),),
                partial(bench.map, place, {"name": "band-ratio"}, "band-ratio"),
            )
            for place in places
        ]
    jobs += [_map(bench, place, f"{m}-tuned", f"tune-{m}") for m in networks for place in scale.transfer]
    for number in range(2, seeds + 1):
        jobs += _again(bench, learners, number)
    return jobs


def seeded(name: str, number: int) -> str:
    """What the weights of a model's training by its first, second, … seed are called."""
    return name if number == 1 else f"{name}-seed-{number}"


def _again(bench: Bench, learners: Sequence[str], number: int) -> list[Job]:
    """Every learner trained, mapped and tuned by another seed, on the same patches."""
    scale, jobs = bench.scale, [_training(bench, seeded(m, number), model=m, number=number) for m in learners]
    if SUBJECT in learners:
        work = partial(bench.importance, seeded(SUBJECT, number))
        needs = (f"train-{seeded(SUBJECT, number)}",)
        jobs.append(Job(seeded("importance", number), needs, work, heavy=True))
    for m in (m for m in learners if m in NETWORKS):
        name = seeded(m, number)
        needs = (f"train-{name}", "patches-transfer")
        jobs.append(Job(f"tune-{name}", needs, partial(bench.tune, name, number), heavy=True))
        jobs += [_map(bench, place, f"{name}-tuned", f"tune-{name}") for place in scale.transfer]
    names = [seeded(m, number) for m in learners]
    return jobs + [_map(bench, place, name) for name in names for place in (*scale.test, *scale.transfer)]


FOREST_THREADS = 4
"""Threads that grow trees, where jobs may be wide: a tree is half a second."""

_SLOWEST_FIRST = ("random-forest", "glavitu", "cryonet", "segformer", "unet", "deeplabv3plus")


def _training(
    bench: Bench,
    name: str,
    kind: str = "blocked",
    needs: str = "patches",
    *,
    model: str | None = None,
    number: int = 1,
) -> Job:
    """The training of a model, or of the subject by another patch set, under the name of its weights."""
    model = model or (name if name in LEARNERS else SUBJECT)
    by_gradient = model in NETWORKS
    slots = 1 if by_gradient else min(bench.scale.wide, FOREST_THREADS)
    work = partial(bench.train, name, model, kind, number)
    return Job(f"train-{name}", (needs,), work, slots=slots, heavy=by_gradient)


def _trainings_of_the_subject(bench: Bench) -> list[Job]:
    """Trainings by which splits and modalities are compared, each after its patches."""
    jobs = [
        Job("patches-random", ("patches",), bench.make_random),
        _training(bench, f"{SUBJECT}-random", "random", "patches-random"),
    ]
    for modalities in bench.scale.ablations:
        kind = without(modalities)
        jobs.append(Job(f"patches-{kind}", ("patches",), partial(bench.make_without, modalities)))
        jobs.append(_training(bench, f"{SUBJECT}-{kind}", kind, f"patches-{kind}"))
    return jobs


def _maps_of_the_subject(bench: Bench) -> list[Job]:
    """Maps by which splits and modalities are compared."""
    jobs = []
    for place in bench.scale.test:
        jobs.append(_map(bench, place, f"{SUBJECT}-random"))
        for modalities in bench.scale.ablations:
            jobs.append(_map(bench, place, f"{SUBJECT}-{without(modalities)}", left_out=modalities))
        for modalities in bench.scale.dropped:
            dropped = f"{SUBJECT}-dropped-{'-'.join(modalities)}"
            model = {"weights": str(bench.weights(SUBJECT))}
            work = partial(bench.map, place, model, dropped, modalities)
            jobs.append(Job(f"map-{place.name}-{dropped}", (f"train-{SUBJECT}", range_job(place)), work))
    return jobs


def _map(
    bench: Bench, place: Place, name: str, needs: str | None = None, left_out: Sequence[str] = ()
) -> Job:
    model = {"weights": str(bench.weights(name))}
    return Job(
        f"map-{place.name}-{name}",
        (needs or f"train-{name}", range_job(place)),
        partial(bench.map, place, model, name, left_out),
    )
