"""The inventory of a run by one process and by several, as if its region were many times larger.

``python -m benchmarks.outlining RUN [--copies 8] [--processes N]`` makes the inventory of a finished run's
last year anew, into a temporary folder: every block is looked at, every complex divided and every glacier
described as often as ``--copies`` says, first by this process alone, then by several. What follows in a row
(joining, fronts, files) is done once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dask.system import CPU_COUNT
from pyarrow.parquet import read_metadata

from benchmarks import RESULTS
from benchmarks.command import Parser, command, count
from cryoscale.bench import record
from cryoscale.bench.figure import rounded
from cryoscale.crew import Crew, Each
from cryoscale.inventories import write_inventory
from cryoscale.ledger import Ledger
from cryoscale.redraw import settings_of
from cryoscale.results import Run

METHOD = (
    "a finished run's inventory made anew, each block, complex and glacier several times, by one process and "
    "then by several in the same process's run; what is done in a row is done once"
)
PACKAGES = ("cryoscale", "numpy", "shapely", "numba")

T = TypeVar("T")
R = TypeVar("R")


def measure(out: str, copies: int, processes: int) -> dict[str, Any]:
    """Seconds of either way, and how many glaciers there are."""
    run = Run(out)
    settings, manifest, year = settings_of(run), Ledger(out).manifest(), run.years[-1]
    assert manifest is not None  # or Run would have refused
    took = {}
    for name, many in (("one", 1), ("several", processes)):
        with tempfile.TemporaryDirectory(prefix="cryoscale-") as folder, Crew(many) as crew:
            each = map if many == 1 else crew.each
            begun = time.perf_counter()
            path = write_inventory(settings, out, Path(folder), year, manifest, None, _again(each, copies))
            took[name] = time.perf_counter() - begun
            glaciers = read_metadata(path).num_rows
    return {
        "glaciers": glaciers,
        "one_s": rounded(took["one"]),
        "several_s": rounded(took["several"]),
        "times": rounded(took["one"] / took["several"]),
    }


def _again(each: Each, copies: int) -> Each:
    """The same answers, each found several times."""

    def repeated(work: Callable[[T], R], things: Iterable[T], /) -> Iterator[R]:
        answers = list(each(work, [thing for thing in things for _ in range(copies)]))
        return iter(answers[::copies])

    return repeated


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", help="Folder of a finished run.")
    parser.add_argument("--copies", type=count, default=8)
    parser.add_argument("--processes", type=count, default=CPU_COUNT)
    parser.add_argument("--out", type=Path, default=RESULTS / "outlining.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    found = measure(given.run, given.copies, given.processes)
    print(
        f"{found['glaciers']} glaciers, {given.copies} times: {found['one_s']:g} s by one process, "
        f"{found['several_s']:g} s by {given.processes}, {found['times']:g} times as quick"
    )
    sizes = {"copies": given.copies, "processes": given.processes, "glaciers": found["glaciers"]}
    record.append(
        given.out, record.line("outlining", method=METHOD, sizes=sizes, results=found, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
