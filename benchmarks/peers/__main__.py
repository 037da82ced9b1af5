"""The same scene through cryoscale, TerraTorch, torchgeo and a notebook's loop, with the same weights.

``python -m benchmarks.peers [--scale tiny|moderate|full] [--network small|cryonet] [--route NAME]``

Each way maps the scene in a fresh process, in float32 on as many threads, with tiles of 256 px that overlap
by half; cryoscale also with the overlap that it recommends for the network. Of each it tells seconds, the
memory above that of the loaded network, how much the tiles' borders show, how far its labels agree with
cryoscale's (over the scene, and farther than a tile from its rim, where lattices differ), and to how much of
what has no data it gives a class.
The libraries come with ``pip install "cryoscale[peers]"``; what is not installed is told as such.
On Python 3.11 that brings TerraTorch 1.2.11, which keeps every tile's answer until the last one; from 1.2.12
on it sums them up at once, and wants torchgeo 0.9 and Python 3.12.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import RESULTS
from benchmarks.command import Parser, command, count
from benchmarks.peers.routes import ROUTES, Job
from benchmarks.peers.scene import NOTE, TIFF, Scene, make, open_scene, origin_of, write_scene, write_tiff
from cryoscale.bench import record
from cryoscale.bench.network import predictor_of
from cryoscale.demo import demo_weights
from cryoscale.errors import InputError, OperatorError
from cryoscale.features.channels import CHANNELS
from cryoscale.infer.tiles import stride_px
from cryoscale.models import weights
from cryoscale.write.seams import seam_score

REFERENCE = "cryoscale, blocks"
SEAMS, SHARES = (
    ("seam_probability", "seam_error", "seam_label"),
    ("same_label", "same_label_inside", "no_data_mapped"),
)
NO_DATA = 255
PACKAGES = ("cryoscale", "torch", "numpy", "terratorch", "torchgeo")
METHOD = (
    "channels in files, one a channel, in the page cache; each way reads them, maps the scene and has labels "
    "and probabilities, in a process of its own; seconds of one run after one on a corner; memory is VmHWM "
    "above VmRSS with libraries and network loaded; seam scores at the tiles' borders, the worse of where "
    "tiles begin and where they end, without the pixels that cryoscale calls no data; fp32"
)
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Scale:
    """Edges of scene, block and tile in pixels, size of the simulated range (None: made up), networks."""

    scene_px: int
    block_px: int
    tile_px: int
    size: str | None
    networks: tuple[str, ...]


SCALES = {
    "tiny": Scale(256, 128, 64, None, ("tiny",)),
    "moderate": Scale(2048, 1024, 256, "medium", ("small",)),
    "full": Scale(4096, 2048, 256, "large", ("small", "cryonet")),
}
OVERLAP = 0.5
"""That of the study, for all."""

RECOMMENDED = {"tiny": 0.125, "small": 0.125, "cryonet": 0.25}
"""For cryoscale in addition: the cheapest at 256 px that costs no accuracy (``benchmarks.overlap``)."""


def compare(job: Job, routes: Sequence[str], recommended: float) -> list[dict[str, Any]]:
    """A row for each way, cryoscale's first, which the others are held against."""
    plan = [(name, OVERLAP) for name in ROUTES if name in routes or name == REFERENCE]
    plan.insert(1, (REFERENCE, recommended))
    rows: list[dict[str, Any]] = []
    reference: NDArray[np.uint8] | None = None
    for name, overlap in plan:
        row: dict[str, Any] = {"route": name, "overlap": overlap}
        rows.append(row)
        if not ROUTES[name].there:
            row["note"] = "not installed"
            print(_line(row), flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="cryoscale-peers-") as out:
            one = replace(job, route=name, overlap=overlap, out=out)
            row |= {"note": ROUTES[name].note, **measured(one)}
            label = np.load(Path(out) / "label.npy")
            reference = label if reference is None else reference
            row |= judged(np.load(Path(out) / "probability.npy", mmap_mode="r"), label, reference, one)
        print(_line(row), flush=True)
    return rows


def measured(job: Job) -> dict[str, Any]:
    """What :func:`benchmarks.peers.routes.measure` finds in a fresh process.

    Raises:
        OperatorError: if that process fails, with its last words.
    """
    command = [sys.executable, "-m", "benchmarks.peers.routes", json.dumps(asdict(job))]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise OperatorError(f"{job.route} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def judged(
    probability: NDArray[np.uint8], label: NDArray[np.uint8], reference: NDArray[np.uint8], job: Job
) -> dict[str, Any]:
    """Seams of a map at its tiles' borders, its agreement with a reference, and what it makes of no data."""
    missing = reference == NO_DATA
    inside = np.zeros_like(missing)
    core = np.s_[job.tile_px : -job.tile_px, job.tile_px : -job.tile_px]
    inside[core] = ~missing[core]
    same, same_inside = (
        float((label == reference)[held].mean()) if held.any() else float("nan")
        for held in (~missing, inside)
    )
    mapped = (label[missing] != NO_DATA).mean() if missing.any() else 0.0
    return {
        **_seams(np.where(missing, NO_DATA, probability), np.where(missing, NO_DATA, label), job),
        "same_label": _told(same, 5),
        "same_label_inside": _told(same_inside, 5),
        "no_data_mapped": round(float(mapped), 5),
    }


def _seams(probability: NDArray[np.uint8], label: NDArray[np.uint8], job: Job) -> dict[str, Any]:
    """The worse of the scores where tiles begin and where they end, if those are other lines."""
    stride, trim = stride_px(job.tile_px, job.overlap), ROUTES[job.route].trim_px
    by_class, of_label, errors = [], [], []
    for end in {0, (job.tile_px - 2 * trim) % stride}:
        at = (-end, -end)
        layers = [seam_score(layer, stride, offset_px=at) for layer in probability]
        telling = [seam for seam in layers if np.isfinite(seam.score)]
        by_class.append(np.mean([seam.score for seam in telling]) if telling else np.nan)
        errors += [seam.standard_error for seam in telling]
        of_label.append(seam_score(label, stride, offset_px=at, categorical=True).score)
    return {
        "seam_probability": _told(np.fmax.reduce(by_class)),
        "seam_error": _told(np.mean(errors) if errors else np.nan),
        "seam_label": _told(np.fmax.reduce(of_label)),
    }


def _told(score: float, digits: int = 3) -> float | None:
    return round(float(score), digits) if np.isfinite(score) else None


def weights_of(network: str, given: Mapping[str, Path], folder: Path) -> tuple[str, str]:
    """Path of a network's weights, and in words what they are.

    Raises:
        WeightsError: if a given file is not there or holds another model's weights.
    """
    if network in given:
        weights.read_card(given[network], channels=CHANNELS)
        return str(given[network]), f"{given[network].name}, given"
    if network == "small":
        return str(demo_weights()), "the package's, trained on simulated ranges"
    drawn, path = predictor_of(network, device="cpu", precision="fp32"), folder / f"{network}.safetensors"
    weights.save(drawn.model, drawn.card, path)
    return str(path), "drawn, not trained: seams and agreement say little"


HEADER = (
    f"{'':22}{'overlap':>8}{'tiles':>7}{'s':>9}{'CPU s':>9}{'Mpx/s':>8}{'loaded':>8}{'+ MiB':>8}"
    f"{'seam':>8}{'+-':>6}{'label':>8}{'same %':>9}{'inside':>9}{'no data mapped %':>18}"
)


def _line(row: Mapping[str, Any]) -> str:
    head = f"{row['route']:22}{100 * row['overlap']:7.1f}%"
    if "seconds" not in row:
        return f"{head}  {row['note']}"
    told = {name: "-" if row[name] is None else format(row[name], ".2f") for name in SEAMS}
    told |= {name: "-" if row[name] is None else format(100 * row[name], ".2f") for name in SHARES}
    return (
        f"{head}{row['tiles']:7}{row['seconds']:9.1f}{row['cpu_s']:9.1f}{row['mpx_s']:8.3f}"
        f"{row['loaded_mib']:8.0f}{row['peak_mib']:8.0f}{told['seam_probability']:>8}{told['seam_error']:>6}"
        f"{told['seam_label']:>8}{told['same_label']:>9}{told['same_label_inside']:>9}{told['no_data_mapped']:>18}"
    )


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument(
        "--network", choices=("small", "cryonet"), action="append", help="default: the scale's"
    )
    parser.add_argument("--route", choices=list(ROUTES), action="append", help="default: all")
    parser.add_argument("--weights-cryonet", type=Path, help="trained weights of the full CryoNet")
    parser.add_argument("--scene-px", type=count, help="edge of the scene; default: the scale's")
    parser.add_argument("--scene", type=Path, help="folder that keeps the scene's channels between runs")
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.jsonl")
    return parser.parse_args(arguments)


def _scene(folder: Path, scale: Scale, edge_px: int) -> Scene:
    """The scene in ``folder``, made where there is none.

    Raises:
        InputError: if there is one of another size.
    """
    if not (folder / NOTE).exists():
        record.require_writable(folder / NOTE)
        write_scene(folder, *make(scale.size, edge_px), scale.block_px)
    scene = open_scene(folder)
    if scene.held.shape != (edge_px, edge_px):
        given = f"--scene {folder}, which holds {scene.held.height} x {scene.held.width} px"
        raise InputError(given, f"a scene of {edge_px} px", "give another folder, or its size by --scene-px")
    if ROUTES["torchgeo"].there and not (folder / TIFF).exists():
        write_tiff(scene)
    return scene


def run(given: argparse.Namespace) -> None:
    """Measure, print, and keep the result as a JSON line."""
    record.require_writable(given.out)
    scale = SCALES[given.scale]
    edge = given.scene_px or scale.scene_px
    if edge < 2 * scale.tile_px:
        least = f"{2 * scale.tile_px} or more: two tiles"
        raise InputError(f"a scene of {edge} px", least, "give a larger --scene-px")
    files = {"cryonet": given.weights_cryonet} if given.weights_cryonet else {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cryoscale-peers-")))
        names = dict.fromkeys(given.network or scale.networks)
        networks = {name: weights_of(name, files, scratch) for name in names}
        folder = given.scene or scratch / "scene"
        scene = _scene(folder, scale, edge)
        results = {}
        for name, (path, of) in networks.items():
            print(
                f"{name} ({of}), {scene.held.height} x {scene.held.width} px of {origin_of(folder)}\n{HEADER}"
            )
            job = Job("", str(folder), path, "", scale.tile_px, 0.0, scale.block_px, given.threads)
            results[name] = {
                "weights": of,
                "rows": compare(job, given.route or list(ROUTES), RECOMMENDED[name]),
            }
        sizes = {
            "scale": given.scale,
            "scene_px": list(scene.held.shape),
            "scene": origin_of(folder),
            "block_px": scale.block_px,
            "tile_px": scale.tile_px,
            "threads": given.threads,
        }
    line = record.line("peers", method=METHOD, sizes=sizes, results=results, packages=PACKAGES)
    record.append(given.out, line)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the arguments say."""
    run(_arguments(arguments))


if __name__ == "__main__":
    main()
