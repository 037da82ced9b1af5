"""The jobs of a benchmark and what each waits for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.accuracy.jobs import Job
from benchmarks.accuracy.scales import LEARNERS, NETWORKS, Place
from benchmarks.accuracy.steps import Bench, range_job, without

SUBJECT = "cryonet"
"""The network that splits, modalities and channels are compared on."""


def plan(bench: Bench, models: Sequence[str]) -> list[Job]:
    """All jobs that the tables of ``models`` need; long ones first among those that may start."""
    learners = sorted((m for m in LEARNERS if m in models), key=("glavitu", *LEARNERS).index)
    jobs = [Job("patches", (), bench.make_patches)] if learners else []
    jobs += [
        Job(range_job(place), (), partial(bench.make_range, place))
        for place in (*bench.scale.test, *bench.scale.transfer)
    ]
    # The slowest network first: what starts last should be short.
    jobs += [Job(f"train-{m}", ("patches",), partial(bench.train, m, m, "blocked")) for m in learners]
    if SUBJECT in models:
        jobs += _of_the_subject(bench)
    networks = [m for m in learners if m in NETWORKS]
    if networks:
        jobs.append(Job("patches-transfer", ("patches",), bench.make_transfer))
    jobs += [Job(f"tune-{m}", (f"train-{m}", "patches-transfer"), partial(bench.tune, m)) for m in networks]
    places = (*bench.scale.test, *bench.scale.transfer)
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
    jobs += [
        _map(bench, place, f"{m}-tuned", f"tune-{m}") for m in networks for place in bench.scale.transfer
    ]
    return jobs


def _of_the_subject(bench: Bench) -> list[Job]:
    """Trainings, maps and permutations by which splits, modalities and channels are compared."""
    jobs = [
        Job("patches-random", ("patches",), bench.make_random),
        Job(
            f"train-{SUBJECT}-random",
            ("patches-random",),
            partial(bench.train, f"{SUBJECT}-random", SUBJECT, "random"),
        ),
    ]
    for modalities in bench.scale.ablations:
        kind = without(modalities)
        name = f"{SUBJECT}-{kind}"
        jobs.append(Job(f"patches-{kind}", ("patches",), partial(bench.make_without, modalities)))
        jobs.append(Job(f"train-{name}", (f"patches-{kind}",), partial(bench.train, name, SUBJECT, kind)))
    jobs.append(Job("importance", (f"train-{SUBJECT}",), partial(bench.importance, SUBJECT)))
    for place in bench.scale.test:
        jobs.append(_map(bench, place, f"{SUBJECT}-random"))
        for modalities in bench.scale.ablations:
            jobs.append(_map(bench, place, f"{SUBJECT}-{without(modalities)}", left_out=modalities))
        for modalities in bench.scale.dropped:
            dropped = f"{SUBJECT}-dropped-{'-'.join(modalities)}"
            needs = (f"train-{SUBJECT}", range_job(place))
            model = {"weights": str(bench.weights(SUBJECT))}
            jobs.append(
                Job(
                    f"map-{place.name}-{dropped}",
                    needs,
                    partial(bench.map, place, model, dropped, modalities),
                )
            )
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
