"""What the overlap of tiles and their size cost, and what they are worth, on simulated ranges.

``python -m benchmarks.overlap [--scale tiny|moderate|full] [--weights X] [--chart PNG] [--tiling 256:0.25]``
makes ranges of seeds and regimes that the weights were not trained on, computes their features once, and maps
them by one set of weights with every tiling: overlaps of 50, 37.5, 25 and 12.5 per cent and none, and windows
of 256 to 1024 px. Of each it tells how often a pixel goes through the network, seconds, accuracy against the
simulator's truth, and the seam score at the tiles' borders. The recommended one is the cheapest whose mean
IoU and whose IoU of debris-covered ice are within 0.2 points of the study's tiling, 256 px at 50 per cent.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import RESULTS
from benchmarks.command import Parser, command, count, require_tiles, share
from cryoscale.bench import record
from cryoscale.config import load_config
from cryoscale.demo import demo_config, demo_weights, truth_of
from cryoscale.errors import SourceError
from cryoscale.featurise import write_features
from cryoscale.grid import Window, window_of
from cryoscale.infer.encode import Confidence, encode
from cryoscale.infer.predict import Tiling, predict_window
from cryoscale.infer.tiles import stride_px
from cryoscale.learn.scores import CLASS_NAMES, Scores, confusion_matrix
from cryoscale.learn.truth import open_truth
from cryoscale.models.cryonet import SQUEEZE_PX
from cryoscale.models.loading import load_predictor
from cryoscale.models.protocol import PredictsTiles
from cryoscale.models.weights import copy_with_card, read_card
from cryoscale.simulate.catalog import publish
from cryoscale.simulate.regime import REGIMES
from cryoscale.simulate.server import serve
from cryoscale.simulate.terrain import make_range
from cryoscale.write.seams import seam_score

YEAR = 2018
STUDY = (256, 0.5)
WHOLE_PX = 4096  # no tile is larger
WITHIN_POINTS = 0.2
DEBRIS = CLASS_NAMES.index("debris_covered_ice")
PACKAGES = ("cryoscale", "torch", "numpy")


@dataclass(frozen=True)
class Scale:
    """Size of the ranges, (seed, regime) of each, and tilings as (tile px, overlap)."""

    size: str
    ranges: tuple[tuple[int, str], ...]
    tilings: tuple[tuple[int, float], ...]


_TILINGS = (
    *((256, overlap) for overlap in (0.5, 0.375, 0.25, 0.125, 0.0)),
    *((tile, overlap) for tile in (384, 512, 1024) for overlap in (0.5, 0.25, 0.125)),
)
SCALES = {
    "tiny": Scale("tiny", ((501, "himalaya"),), ((256, 0.5), (256, 0.25))),
    "moderate": Scale("small", ((501, "himalaya"), (502, "karakoram")), _TILINGS),
    "full": Scale("medium", ((501, "himalaya"), (502, "karakoram"), (503, "himalaya-early")), _TILINGS),
}


@dataclass(frozen=True)
class Ground:
    """One zone of a range: features (c, y, x) on a window, and the truth (y, x) there."""

    window: Window
    features: NDArray[np.float32]
    truth: NDArray[np.uint8]


def grounds(
    scale: Scale, folder: Path, *, year: int = YEAR, ela_shift_m: float = 0.0, weights: str | None = None
) -> Iterator[Ground]:
    """Every zone of every range, its features computed as a run by these weights computes them."""
    for seed, regime in scale.ranges:
        home, store = folder / f"{seed}" / "simulated", folder / f"{seed}.zarr"
        published = publish(
            {year: make_range(seed, scale.size, regime=REGIMES[regime], ela_shift_m=ela_shift_m)}, home
        )
        document = demo_config(home, scale.size, (year,), seed)
        document["region"] = {"bbox": [round(v, 6) for v in published.bbox_deg]}
        if weights is not None:  # principal components are in the basis of the weights
            document["model"] = {"weights": weights}
        with serve(home) as url:
            write_features(load_config({**document, "catalogs": [{"url": url}]}), str(store))
        for group in sorted((store / str(year)).iterdir()):
            if group.name.isdigit():
                yield _ground(store, year, int(group.name), truth_of(home, year, year, int(group.name)))


def _ground(store: Path, year: int, epsg: int, truth: Path) -> Ground:
    stack = xr.open_zarr(store, group=f"{year}/{epsg}", consolidated=False)["features"]
    window = window_of(stack, epsg)
    features = np.asarray(stack.values, np.float32)
    with open_truth(truth, window) as read:
        return Ground(window, features, read(window))


ON_GPU_AT_ONCE = 256 * 256 * 16
"""Pixels of the tiles that a GPU is given at once; on a CPU tiles go one by one."""


def measure(predictor: PredictsTiles, ground: Ground, tile_px: int, overlap: float) -> dict[str, Any]:
    """One tiling on one zone: tiles, seconds, confusion matrix, and seam scores weighted by their lines."""
    on_gpu = str(getattr(predictor, "device", "cpu")).startswith("cuda")
    batch = max(1, ON_GPU_AT_ONCE // tile_px**2) if on_gpu else 1
    begun = time.process_time()
    found = predict_window(
        ground.features,
        (ground.window.row, ground.window.col),
        ground.window,
        predict=predictor,
        tiling=Tiling(tile_px, overlap, batch),
    )
    took = time.process_time() - begun
    bands = encode(found.probability, found.disagreement, Confidence("entropy", None))
    known = np.where(bands["label"] == 255, 255, ground.truth)
    stride = stride_px(tile_px, overlap)
    offset = (ground.window.row, ground.window.col)
    ice = (bands["label"] == DEBRIS) | (bands["label"] == CLASS_NAMES.index("clean_ice"))
    seams = seam_score(
        np.where(bands["label"] == 255, 255, ice).astype(np.uint8), stride, offset_px=offset, categorical=True
    )
    by_class = [seam_score(layer, stride, offset_px=offset) for layer in bands["probability"]]
    telling = [seam for seam in by_class if np.isfinite(seam.score)]
    return {
        "tiles": found.tiles,
        "pixels": int((bands["label"] != 255).sum()),
        "cpu_s": took,
        "confusion": confusion_matrix(known, bands["label"], len(CLASS_NAMES)),
        "seam_label": seams.score,
        "seam_probability": float(np.mean([seam.score for seam in telling])) if telling else float("nan"),
    }


def looks_at(weights: str | Path) -> int:
    """Over how much ground the gates of these weights look, px; all of any tile where they are no CryoNet."""
    card = read_card(weights)
    return int(card.arguments.get("squeeze_px", SQUEEZE_PX)) if card.architecture == "cryonet" else WHOLE_PX


def compare(
    scale: Scale, weights: str, device: str = "cpu", *, squeeze_px: int | None = None
) -> list[dict[str, Any]]:
    """A row for each tiling over all ranges; with ``squeeze_px`` as if that stood on a CryoNet's card."""
    rows: dict[tuple[int, float], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        used = weights
        if squeeze_px is not None:
            card, used = read_card(weights), f"{folder}/{Path(weights).name}"
            arguments = {**card.arguments, "squeeze_px": squeeze_px}
            copy_with_card(weights, card.model_copy(update={"arguments": arguments}), used)
        predictor = load_predictor(weights=used, device=device, precision="fp32")
        require_tiles(predictor, *(tile_px for tile_px, _ in scale.tilings))
        for ground in grounds(scale, Path(folder), weights=weights):
            for tiling in scale.tilings:
                rows.setdefault(tiling, []).append(measure(predictor, ground, *tiling))
    return [_row(tile_px, overlap, parts) for (tile_px, overlap), parts in rows.items()]


def _row(tile_px: int, overlap: float, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scores = Scores(sum(part["confusion"] for part in parts))
    pixels = sum(part["pixels"] for part in parts)
    tiles = sum(part["tiles"] for part in parts)
    return {
        "tile_px": tile_px,
        "overlap": overlap,
        "passes": round(tiles * tile_px**2 / pixels, 3),
        "passes_inside": round((tile_px / stride_px(tile_px, overlap)) ** 2, 3),
        "cpu_s": round(sum(part["cpu_s"] for part in parts), 2),
        "mean_iou": round(100 * scores.mean_iou, 3),
        "iou": {name: round(100 * float(v), 3) for name, v in zip(CLASS_NAMES, scores.iou, strict=True)},
        "accuracy": round(100 * scores.accuracy, 3),
        "seam_label": round(float(np.nanmean([part["seam_label"] for part in parts])), 3),
        "seam_probability": round(float(np.nanmean([part["seam_probability"] for part in parts])), 3),
        "pixels": pixels,
    }


def recommended(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The cheapest in passes through the network far from borders that loses no more than is allowed."""
    base = next(row for row in rows if (row["tile_px"], row["overlap"]) == STUDY)

    def enough(row: dict[str, Any]) -> bool:
        lost = [base["mean_iou"] - row["mean_iou"], base["accuracy"] - row["accuracy"]]
        lost.append(base["iou"][CLASS_NAMES[DEBRIS]] - row["iou"][CLASS_NAMES[DEBRIS]])
        return max(lost) <= WITHIN_POINTS

    return min(filter(enough, rows), key=lambda row: (row["passes_inside"], row["cpu_s"]))


def kept_rows(path: Path, weights: str, scale: str, squeeze_px: int) -> list[dict[str, Any]]:
    """All tilings that a file of results holds of weights of this name, the latest of each.

    Of tiles larger than the study's those whose gates looked as far as ``squeeze_px``; in lines that do not
    say how far, they looked at whole tiles.

    Raises:
        SourceError: there are none, or not of the same weights, as the study's tiling shows, which all have.
    """
    found: dict[tuple[int, float], dict[str, Any]] = {}
    try:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        told = [(line["benchmark"], line["sizes"]["weights"], line["sizes"]["scale"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} ({error!r})", "lines that overlap has kept", "give their --out") from error
    for line, of in zip(lines, told, strict=True):
        if of != ("overlap", weights, scale):
            continue
        rows = {(row["tile_px"], row["overlap"]): row for row in line["results"]["rows"]}
        base = found.get(STUDY, rows[STUDY])
        if any(base[key] != rows[STUDY][key] for key in ("mean_iou", "accuracy", "pixels")):
            given = f"{path}, which holds lines of several {weights}, or of several lists of ranges"
            raise SourceError(given, "lines of one and the same", "keep each in a file of its own")
        alike = line["sizes"].get("squeeze_px", WHOLE_PX) == squeeze_px
        found |= {tiling: row for tiling, row in rows.items() if alike or tiling[0] <= STUDY[0]}
    if not found:
        given = f"{path}, which holds nothing of {weights} at the scale {scale}"
        raise SourceError(given, "a line of it", "measure it first, or give another --out")
    return [found[tiling] for tiling in sorted(found, key=lambda tiling: (tiling[0], -tiling[1]))]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """As lines of text."""
    best = recommended(rows)
    lines = [
        f"{'tile':>6}{'overlap':>9}{'passes':>8}{'CPU s':>8}{'mean IoU':>10}{'clean':>8}{'debris':>8}"
        f"{'accuracy':>10}{'seam':>7}{'seam, label':>13}"
    ]
    for row in rows:
        lines.append(
            f"{row['tile_px']:6}{100 * row['overlap']:8.1f}%{row['passes_inside']:8.2f}{row['cpu_s']:8.1f}"
            f"{row['mean_iou']:10.2f}{row['iou'][CLASS_NAMES[1]]:8.2f}{row['iou'][CLASS_NAMES[DEBRIS]]:8.2f}"
            f"{row['accuracy']:10.2f}{row['seam_probability']:7.3f}{row['seam_label']:13.3f}"
            f"{'  <- recommended' if row is best else ''}"
        )
    return "\n".join(lines)


def chart(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy and seams by passes through the network, a line for each size of tile."""
    figure = Figure(figsize=(9, 3.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    kinds = (("mean_iou", "mean IoU, %"), ("seam_probability", "seam score of the probabilities"))
    for axes, (key, label) in zip(panels, kinds, strict=True):
        for tile_px in sorted({row["tile_px"] for row in rows}):
            own = sorted((r for r in rows if r["tile_px"] == tile_px), key=lambda r: r["passes_inside"])
            axes.plot([r["passes_inside"] for r in own], [r[key] for r in own], "o-", label=f"{tile_px} px")
        if key.startswith("seam"):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.axhline(1.0, color="#8a929c", linewidth=0.8, linestyle="--")
        axes.set_xlabel("times that a pixel goes through the network")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e7ea")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="tile", loc="outside right upper", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")


def _tiling(text: str) -> tuple[int, float]:
    tile_px, _, overlap = text.partition(":")
    return count(tile_px), share(overlap)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--weights", default=str(demo_weights()))
    parser.add_argument("--out", type=Path, default=RESULTS / "overlap.jsonl")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="Where the network runs.")
    parser.add_argument("--chart", type=Path)
    parser.add_argument(
        "--tiling",
        type=_tiling,
        action="append",
        metavar="PX:OVERLAP",
        help="Only this one beside the study's, which the others are held against; may be repeated.",
    )
    parser.add_argument(
        "--kept",
        action="store_true",
        help="Measure nothing: the table and the chart of all that --out holds of weights of this name.",
    )
    parser.add_argument(
        "--squeeze-px",
        type=count,
        help="Over how much ground a CryoNet's gates look, px, a multiple of 32; default: its card's.",
    )
    given = parser.parse_args(arguments)
    if given.chart:
        record.require_writable(given.chart)
    squeeze_px = given.squeeze_px or looks_at(given.weights)
    if given.kept:
        rows = kept_rows(given.out, Path(given.weights).name, given.scale, squeeze_px)
        print(table(rows))
        if given.chart:
            chart(rows, given.chart)
        return
    record.require_writable(given.out)
    scale = SCALES[given.scale]
    if given.tiling:
        scale = replace(scale, tilings=(STUDY, *(one for one in given.tiling if one != STUDY)))
    rows = compare(scale, given.weights, given.device, squeeze_px=given.squeeze_px)
    print(table(rows))
    if given.chart:
        chart(rows, given.chart)
    best = recommended(rows)
    results = {"rows": rows, "recommended": {key: best[key] for key in ("tile_px", "overlap")}}
    method = (
        "features of simulated ranges computed once, mapped zone by zone with each tiling by one set of "
        "weights, fp32 on the device named; scores against the simulator's truth; passes are those far from "
        "the region's rim; seam scores at the tiles' stride, of the class probabilities (mean) and of the "
        "label ice or not"
    )
    sizes = {
        "scale": given.scale,
        "size": scale.size,
        "ranges": scale.ranges,
        "weights": Path(given.weights).name,
        "squeeze_px": squeeze_px,
        "device": given.device,
    }
    record.append(
        given.out, record.line("overlap", method=method, sizes=sizes, results=results, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
