"""The README's table of speed, from the recorded lines and nothing else: ``python -m benchmarks.readme``.

``cryoscale bench --scale full --out benchmarks/results/bench.jsonl`` makes such a line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import RESULTS
from cryoscale.bench.table import markdown

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- bench-table -->", "<!-- bench-table-end -->"
_NETWORKS = tuple(
    f"{stage} {size}" for size in ("small", "cryonet") for stage in ("network", "actor", "fed actor")
)
_BY_TRIAL = tuple(f"network {size}, by trial" for size in ("small", "cryonet"))
_OF_NUMBERS = tuple(f"actor of numbers {size}" for size in ("small", "cryonet"))
_REST = ("reading", "blending", "writing", "orchestration", "mapping", "end to end")
EXPECTED = {
    "cpu": ("features", *_NETWORKS, *_BY_TRIAL, *_REST),
    "cuda": (*_NETWORKS, *_OF_NUMBERS, "mapping", "GPU busy", "end to end"),
}
"""Figures by device that the table has a row for, measured or not."""


def updated(text: str) -> str:
    """The README with its table made anew."""
    path = RESULTS / "bench.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    made = markdown([json.loads(line) for line in lines], EXPECTED)
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, or with ``--check`` say whether it is as the records have it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="Change nothing; exit code 1 if it is another.")
    given = parser.parse_args(arguments)
    text = README.read_text("utf-8")
    made = updated(text)
    if given.check:
        return 0 if made == text else 1
    README.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
