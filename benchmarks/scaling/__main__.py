"""Where a run of 100,000 blocks stops scaling with GPUs, and why: 1 and 2 workers measured, else simulated.

``python -m benchmarks.scaling [--scale tiny|moderate|full] [--out FILE] [--chart PNG]`` runs a simulated
range through the real pipeline with one worker and with two, and holds the simulator beside it against
both: it is given the processor seconds of the first run, no second of any clock. With the same stage times,
brought to blocks of 2048 px by their pixels, it then replays runs with 1 to 64 GPUs.

Measured here: stage times, bytes and requests a block, what sending to an actor costs and brings, what
driver and scheduler cost a block, the start of workers. **Assumed, not measured**: how fast a GPU is
(``jobs.SPEEDS``), and the cluster (``jobs.Cluster``). The range has three optical scenes a season.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from benchmarks.scaling.chart import chart
from benchmarks.scaling.forecast import Scale, forecast, held_by, validation
from benchmarks.scaling.inputs import Inputs, measure_inputs
from benchmarks.scaling.jobs import BLOCK_PX, CLUSTER, OVERLAP
from cryoscale.bench import record

PACKAGES = ("cryoscale", "dask", "distributed", "numpy", "torch")
_WORKERS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SCALES = {
    "tiny": Scale(Inputs("tiny", 256, 50, 2**21, (1,)), 100, (1, 4), (4, 16), 50),
    "moderate": Scale(Inputs("small", 512, 500, 2**26), 20_000, (1, 2, 4, 8, 16, 32, 64), _WORKERS, 1000),
    "full": Scale(Inputs("medium", 512, 1000, 2**27), 100_000, (1, 2, 4, 8, 16, 32, 64), _WORKERS, 2000),
}


def finish_s_a_block() -> float:
    """Seconds of what follows the last block, in one process: levels, outlines, map, report.

    The slope between the two regions that ``benchmarks.memory`` measured last, whose ice is connected
    throughout, on blocks of 512 px; a region with less ice takes less.
    """
    line = json.loads((RESULTS / "memory.jsonl").read_text("utf-8").splitlines()[-1])
    pair = line["results"]["pairs"][-1]
    small, large = (sum(pair[side]["seconds"].values()) for side in ("small", "large"))
    a_block = (large - small) / (pair["large"]["blocks"] - pair["small"]["blocks"])
    return float(a_block) * (BLOCK_PX / line["sizes"]["block_px"]) ** 2


def lines(results: Mapping[str, Any]) -> str:
    """The measured runs and the simulated ones as text."""
    out = ["measured and simulated, on this machine:"]
    for row in results["validation"]:
        out.append(
            f"  {row['workers']} workers: {row['blocks']} blocks in {row['measured_s']} s, simulated "
            f"{row['forecast_s']} s ({row['error_pct']:+.1f} %)"
        )
    blocks = results["blocks"]
    out.append(f"simulated, {blocks:,} blocks of {BLOCK_PX} px; GPU speeds are assumed, not measured:")
    out.append(
        f"{'tiles/s':>8}  {'blocks travel':44}{'GPUs':>5}{'CPU workers':>13}{'blocks/s':>10}{'hours':>9}"
        f"{'GPU busy':>10}{'efficiency':>12}"
    )
    for case in results["cases"]:
        for row in case["by_gpus"]:
            told = f"  held by {held_by(row)}" if "gain_where_doubled" in row else ""
            out.append(
                f"{case['tiles_s']:8}  {case['form']:44}{row['gpus']:5}{row['cpu_workers']:13,}"
                f"{row['blocks_s']:10.2f}{row['hours']:9.2f}{row['busy']['actors']:10.1%}"
                f"{row['efficiency']:12.1%}{told}"
            )
    for case in {case["form"]: case for case in results["cases"]}.values():
        out.append(
            f"an actor takes in blocks for at most {case['intake_tiles_s']:,.0f} tiles/s: {case['form']}"
        )
    hours = results["finish_s_a_block"] * blocks / 3600
    out.append(
        f"after the last block one process goes on for up to {hours:.2g} h, over ice as in benchmarks.memory"
    )
    return "\n".join(out)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, simulate, print, draw, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.jsonl")
    parser.add_argument("--chart", type=Path)
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    if given.chart:
        record.require_writable(given.chart)
    scale = SCALES[given.scale]
    measured = measure_inputs(scale.inputs)
    begun = time.perf_counter()
    results: dict[str, Any] = {
        "validation": validation(measured),
        "driver_ms": round(1000 * measured.driver_s, 3),
        "intake_mb_s": round(measured.intake_bytes_s / 1e6, 1),
        "send_cpu_s_gb": round(1e9 * measured.send_cpu_s_byte, 3),
        "finish_s_a_block": round(finish_s_a_block(), 3),
        "blocks": scale.blocks,
        "cases": forecast(measured, scale),
    }
    results["limits_blocks_s"] = {
        "object store": CLUSTER.store_bytes_s / results["cases"][0]["job"]["fetched_bytes"],
        "driver and scheduler": 1 / measured.driver_s,
    }
    results["simulated_in_s"] = round(time.perf_counter() - begun, 1)
    print(lines(results))
    if given.chart:
        chart(results, given.chart)
    method = (
        "the same simulated range through the pipeline with 1 and 2 workers, seconds from the first block's "
        "first stage to the end of the last; simulated from the processor seconds of the run with 1 worker; "
        "runs with GPUs are only simulated: blocks drawn from the fuller half of those measured, brought to "
        f"{BLOCK_PX} px by pixels read and written, GPU speeds and cluster assumed, without failures and "
        "what follows the last block; held by: the resource whose doubling makes the run fastest"
    )
    sizes = {"scale": given.scale, **asdict(scale), "cluster": asdict(CLUSTER), "overlap": OVERLAP}
    record.append(
        given.out, record.line("scaling", method=method, sizes=sizes, results=results, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
