"""How models do on labelled real pixels: the classical learner with whole sites held out, and a network.

    python -m benchmarks.accuracy_spectra PIXELS.csv [--weights X.safetensors] [--json]

The pixels are 11,729 of 12-band Sentinel-2 L2A on four glaciers, summer 2021
(https://github.com/RaineyAbe/glacier-snow-cover-mapping, MIT): snow, shadowed snow, ice, rock or debris,
water. Points cluster, so nothing is learnt from the site that is scored. What is asked is snow or ice against
rock; water, which one site alone has, is shown and not scored.

A network is no per-pixel learner: it is shown each pixel as a tile of that one spectrum, without texture,
and without all that is not optical. That is unlike anything it was trained on: its figures say how far its
knowledge of spectra carries alone, not how well it maps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.command import Parser, command, count, require_tiles
from cryoscale.errors import SourceError
from cryoscale.features.channels import BANDS, CHANNELS
from cryoscale.features.spectral import INDEX_BANDS, normalized_difference, project, tasselled_cap
from cryoscale.learn.forest import grow
from cryoscale.models.bandratio import BandRatio
from cryoscale.models.forest import RandomForest
from cryoscale.models.loading import load_predictor
from cryoscale.models.protocol import PredictsTiles

KINDS = {1: "snow", 2: "shadowed snow", 3: "ice", 4: "rock", 5: "water"}
SNOW_OR_ICE, ROCK, WATER = (1, 2, 3), 4, 5

TASSELLED = tuple(name for name in CHANNELS if name.startswith("TC_"))
SPECTRAL = (*BANDS, *INDEX_BANDS, *TASSELLED)
"""What a single pixel has of the 30 channels without a basis of principal components."""


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels: site and kind (n,), longitude and latitude (n, 2), reflectance (12, n)."""

    site: NDArray[np.str_]
    kind: NDArray[np.int64]
    lonlat_deg: NDArray[np.float64]
    bands: NDArray[np.float32]

    def spectral(self) -> NDArray[np.float32]:
        """The channels ``SPECTRAL`` (n, 19), by the code that makes the stack."""
        rows = self.bands[:, np.newaxis]
        by_name = dict(zip(BANDS, rows, strict=True))
        indices = [normalized_difference(by_name[a], by_name[b]) for a, b in INDEX_BANDS.values()]
        return np.concatenate([rows, np.stack(indices), tasselled_cap(rows)])[:, 0].T.copy()


def read_pixels(path: Path) -> Pixels:
    """The table of ``s2_l2a_labelled_pixels.csv``.

    Raises:
        SourceError: it is not there, or another.
    """
    try:
        table = pd.read_csv(path)
        lonlat = table["geometry"].str.extract(r"POINT \(([-\d.]+) ([-\d.]+)\)").to_numpy(float)
        bands = table[[band.replace("B0", "B") for band in BANDS]].to_numpy(np.float32)
        return Pixels(table["site_name"].to_numpy(str), table["class"].to_numpy(), lonlat, bands.T.copy())
    except (OSError, KeyError, ValueError, AttributeError) as error:
        what = "the table s2_l2a_labelled_pixels.csv"
        raise SourceError(f"pixels {path} ({error!r})", what, "check the path") from error


# --- scores -------------------------------------------------------------------------------------


def score(kind: NDArray[np.int64], icy: NDArray[np.bool_]) -> dict[str, float]:
    """Shares of right answers where ``icy`` (n,) tells snow or ice from rock; by kind, all, balanced."""
    truth, scored = np.isin(kind, SNOW_OR_ICE), kind != WATER
    right = icy == truth
    of = {
        name: float(right[kind == k].mean()) for k, name in KINDS.items() if k != WATER and (kind == k).any()
    }
    balanced = (right[scored & truth].mean() + right[kind == ROCK].mean()) / 2
    out = {"pixels": int(scored.sum()), "accuracy": float(right[scored].mean()), "balanced": float(balanced)}
    if (kind == WATER).any():
        of["water taken for ice"] = float(icy[kind == WATER].mean())
    return {**out, **of}


def by_site(pixels: Pixels, icy: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """:func:`score` of each site, and of all together."""
    sites = {name: pixels.site == name for name in sorted(set(pixels.site))}
    return {
        **{name: score(pixels.kind[at], icy[at]) for name, at in sites.items()},
        "all": score(pixels.kind, icy),
    }


# --- models -------------------------------------------------------------------------------------


def forest_held_out(pixels: Pixels, *, seed: int = 0, trees: int = 100) -> NDArray[np.bool_]:
    """Snow or ice (n,) by random forests, each grown on all sites but that of the pixels it answers for.

    Water is left out of growing: a class that one site alone has cannot be held out. Five pixels lack a band;
    what is missing is the mean of the sites learnt from, as everywhere.
    """
    import torch

    x, icy = pixels.spectral(), np.zeros(len(pixels.kind), bool)
    truth = np.isin(pixels.kind, SNOW_OR_ICE).astype(np.int64)
    for site in np.unique(pixels.site):
        held = pixels.site == site
        forest = RandomForest(len(SPECTRAL), 2, trees=trees, leaves=256)
        learnt = ~held & (pixels.kind != WATER)
        filled = np.where(np.isnan(x), np.nanmean(x[learnt], axis=0), x)
        grow(forest, filled[learnt], truth[learnt], seed=seed)
        with torch.inference_mode():
            tiles = torch.from_numpy(filled[held].T[np.newaxis, :, np.newaxis].copy())
            icy[held] = forest(tiles)[0, :, 0].argmax(0).numpy() == 1
    return icy


def band_ratio(pixels: Pixels) -> NDArray[np.bool_]:
    """Snow or ice (n,) by the thresholds of the classical method, which learns nothing."""
    icy: NDArray[np.bool_] = BandRatio()(pixels.bands[np.newaxis, :, np.newaxis])[0, :, 0].argmax(0) == 1
    return icy


def network_labels(
    predict: PredictsTiles,
    pixels: Pixels,
    *,
    tile_px: int = 32,
) -> NDArray[np.int64]:
    """Labels (n,) that a model gives each pixel, shown as a tile of its spectrum alone."""
    channels = _channels(predict, pixels)
    labels = np.empty(len(pixels.kind), np.int64)
    lon, lat = np.radians(pixels.lonlat_deg).T
    places = np.stack([np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)], axis=1).astype(np.float32)
    for number in range(len(labels)):
        tile = np.broadcast_to(channels[number, :, None, None], (1, channels.shape[1], tile_px, tile_px))
        more = (places[number : number + 1],) if predict.needs_location else ()
        labels[number] = predict(tile, *more)[0, :, tile_px // 2, tile_px // 2].argmax()
    return labels


def _channels(predict: PredictsTiles, pixels: Pixels) -> NDArray[np.float32]:
    """The channels (n, c) that a model wants: NaN for what a pixel has not, and texture 0."""
    made = dict(zip(SPECTRAL, pixels.spectral().T, strict=True))
    if predict.pca is not None:
        basis = (np.array(predict.pca[key], float) for key in ("mean", "components"))
        parts = project(pixels.bands[:, np.newaxis], *basis)[:, 0]
        made.update({f"PCA{number}": part for number, part in enumerate(parts, start=1)})
    made["GLCM_dissimilarity"] = np.zeros(len(pixels.kind), np.float32)
    absent = np.full(len(pixels.kind), np.nan, np.float32)
    return np.stack([made.get(name, absent) for name in predict.channels], axis=1)


# --- reporting ----------------------------------------------------------------------------------


def table(title: str, scores: dict[str, dict[str, float]]) -> str:
    """Per cent, a row a site."""
    names = ["accuracy", "balanced", "snow", "shadowed snow", "ice", "rock", "water taken for ice"]
    lines = [title, f"{'site':<14}{'pixels':>7}" + "".join(f"{name:>21}" for name in names)]
    for site, row in scores.items():
        cells = (f"{100 * row[name]:>21.2f}" if name in row else f"{'-':>21}" for name in names)
        lines.append(f"{site:<14}{row['pixels']:>7}" + "".join(cells))
    return "\n".join(lines)


def confusion(
    pixels: Pixels, labels: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Of each kind of pixel, the share that got each class."""
    return {
        name: {c: float((labels[pixels.kind == k] == i).mean()) for i, c in enumerate(classes)}
        for k, name in KINDS.items()
    }


def measure(path: Path, weights: Path | None = None, *, tile_px: int = 32) -> dict[str, Any]:
    """All figures: of the forest, of the band ratio and, where weights are given, of their network."""
    pixels = read_pixels(path)
    if weights is not None:
        predict = load_predictor(weights=weights, device="cpu", precision="fp32")
        require_tiles(predict, tile_px)
    out: dict[str, Any] = {
        "random forest, site held out": by_site(pixels, forest_held_out(pixels)),
        "band ratio": by_site(pixels, band_ratio(pixels)),
    }
    if weights is not None:
        labels = network_labels(predict, pixels, tile_px=tile_px)
        name = f"{predict.describe()['name']} on tiles of one spectrum"
        out[name] = by_site(pixels, labels == predict.classes.index("clean_ice"))
        out["classes given"] = confusion(pixels, labels, predict.classes)
    return out


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pixels", type=Path, help="s2_l2a_labelled_pixels.csv")
    parser.add_argument("--weights", type=Path, help="a network to show the pixels to")
    parser.add_argument("--tile", type=count, default=32, help="edge of its tiles in pixels")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = measure(given.pixels, given.weights, tile_px=given.tile)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    given_classes = found.pop("classes given", {})
    print("\n\n".join(table(title, scores) for title, scores in found.items()))
    for kind, shares in given_classes.items():
        print(f"{kind:<14}" + "  ".join(f"{name} {100 * share:.2f}" for name, share in shares.items()))


if __name__ == "__main__":
    main()
