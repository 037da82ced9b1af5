"""The network alone in every way that this machine has to run it, in batches of several sizes.

``python -m benchmarks.precisions [--scale tiny|small|cryonet] [--batch N ...]`` makes a network ready as a
run serves it (one shape of batch, on a GPU captured as a graph), drawn weights, tiles that lie on the device,
and tells tiles a second beside those of float32 in the same run. How alike the answers are depends on the
weights and is for a run's own trial to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS
from benchmarks.command import Parser, command, count
from cryoscale.bench import record
from cryoscale.bench.clock import seconds
from cryoscale.bench.figure import rounded
from cryoscale.bench.network import SIZES, predictor_of
from cryoscale.errors import CryoscaleError
from cryoscale.models.predictor import choose_device
from cryoscale.models.serving import Served

WAYS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "bf16-compiled", "bf16-fused")}
BATCHES = {"cpu": (1, 4), "cuda": (32, 64, 128)}
IN_A_ROW = {"cpu": 1, "cuda": 10}
"""Batches that follow one another without a wait."""


def measure(size: str, batches: Sequence[int], tile_px: int, device: str) -> list[dict[str, Any]]:
    """A row for each way and batch: tiles a second, times those of float32 in the same batch, or why not."""
    rows: list[dict[str, Any]] = []
    plain: dict[int, float] = {}
    for precision in WAYS[device]:
        predictor = predictor_of(size, device=device, precision=precision)
        for batch in batches:
            row: dict[str, Any] = {"precision": precision, "batch": batch}
            try:
                served = predictor.serve(batch, tile_px)
            except (CryoscaleError, torch.OutOfMemoryError) as error:
                rows.append({**row, "why_not": " ".join(str(error).split())[:200]})
                continue
            served.tiles.normal_()
            rate = batch * IN_A_ROW[device] / seconds(partial(_run, served, device))
            plain.setdefault(batch, rate)
            row |= {"tiles_s": rounded(rate), "times_fp32": rounded(rate / plain[batch])}
            rows.append({**row, "captured": served.captured})
            del served
    return rows


def _run(served: Served, device: str) -> None:
    for _ in range(IN_A_ROW[device]):
        served.run()
    if device == "cuda":
        torch.cuda.synchronize()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """As lines of text."""
    lines = [f"{'precision':<16}{'batch':>6}{'tiles/s':>10}{'times fp32':>12}"]
    for row in rows:
        told = (
            f"  {row['why_not']}" if "why_not" in row else f"{row['tiles_s']:>10g}{row['times_fp32']:>12.3g}"
        )
        lines.append(f"{row['precision']:<16}{row['batch']:>6}{told}")
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SIZES), default="small", help="Which network.")
    parser.add_argument("--batch", type=count, nargs="+", help="Tiles a batch; default: by device.")
    parser.add_argument("--tile-px", type=count, help="Edge of a tile; 256, of the tiny network 64.")
    parser.add_argument("--out", type=Path, default=RESULTS / "precisions.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    device = choose_device("auto").type
    tile_px = given.tile_px or (64 if given.scale == "tiny" else 256)
    rows = measure(given.scale, given.batch or BATCHES[device], tile_px, device)
    print(table(rows))
    sizes = {"scale": given.scale, "tile_px": tile_px, "device": device}
    method = (
        "drawn weights, drawn tiles on the device, batches of one shape one after the other; the fastest of "
        "several turns after one that warms up"
    )
    record.append(
        given.out,
        record.line(
            "precisions",
            method=method,
            sizes=sizes,
            results={"rows": rows},
            packages=("torch", "triton", "openvino"),
        ),
    )


if __name__ == "__main__":
    main()
