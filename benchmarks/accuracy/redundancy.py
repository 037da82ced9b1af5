"""Why a channel leads or does not: what it tells alone, what says the same, what a learner makes of it.

``python -m benchmarks.accuracy.redundancy PATCHES.zarr [--spectra PIXELS.csv]`` prints, for labelled pixels:
the coherence of each class; how well single channels tell two classes apart (area under the ROC curve); how
tasselled-cap wetness correlates with other channels; and the ranks of channels by permutation in small
perceptrons of several seeds, with all channels and with the tasselled cap as the only optical ones. With
``--spectra`` the same of real pixels (Aberle et al., github.com/RaineyAbe/glacier-snow-cover-mapping).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score, roc_auc_score
from sklearn.neural_network import MLPClassifier

from benchmarks.command import Parser, command
from cryoscale.errors import SourceError
from cryoscale.features.channels import BANDS
from cryoscale.features.spectral import normalized_difference, tasselled_cap
from cryoscale.learn.patches import Patches

WATCHED = ("coherence", "TC_wetness", "NDSI", "NDVI", "B11", "B04", "velocity", "slope")
PAIRS = ((0, 2, "background and debris"), (0, 1, "background and clean ice"), (1, 2, "clean ice and debris"))
SPECTRA_PAIRS = ((4, 3, "rock and ice"), (4, 2, "rock and shadowed snow"), (4, 5, "rock and water"))
SEEDS = 5
F32 = NDArray[np.float32]
Labels = NDArray[np.uint8]


def pixels(patches: Patches, split: str, count: int) -> tuple[F32, Labels]:
    """Channels (n, c), 0 deviations where missing, and labels (n,) of ``count`` pixels of each patch."""
    rng = np.random.default_rng(0)
    mean, _ = patches.statistics(patches.indices("train")[:16])
    xs, ys = [], []
    for index in patches.indices(split):
        x, y = patches.read(int(index))
        drawn = rng.permutation(np.flatnonzero(y.ravel() != 255))[:count]
        xs.append(x.reshape(len(x), -1)[:, drawn].T)
        ys.append(y.ravel()[drawn])
    found = np.concatenate(xs)
    return np.where(np.isfinite(found), found, mean).astype(np.float32), np.concatenate(ys)


def apart(values: F32, labels: Labels, first: int, second: int) -> float:
    """Area under the ROC curve of one channel for two classes, whichever of them is the brighter."""
    use = np.isin(labels, [first, second])
    area = float(roc_auc_score(labels[use] == second, values[use]))
    return max(area, 1.0 - area)


def report(features: Mapping[str, F32], labels: Labels, pairs: Sequence[tuple[int, int, str]]) -> None:
    """Prints how far single channels tell class pairs apart, and what wetness correlates with."""
    names = [name for name in WATCHED if name in features]
    for first, second, title in pairs:
        areas = ", ".join(f"{n} {apart(features[n], labels, first, second):.3f}" for n in names)
        print(f"apart by one channel, {title}: {areas}")
    wet = features["TC_wetness"]
    related = {n: float(np.corrcoef(wet, v)[0, 1]) for n, v in features.items() if n != "TC_wetness"}
    closest = sorted(related.items(), key=lambda item: -abs(item[1]))[:6]
    print("wetness correlates with " + ", ".join(f"{n} {r:.2f}" for n, r in closest))


def ranks(
    train: tuple[F32, Labels], test: tuple[F32, Labels], names: Sequence[str], seed: int
) -> tuple[float, list[str], list[str]]:
    """Mean IoU of a perceptron on single pixels; channels by fall of mean IoU and of accuracy."""
    mean, std = train[0].mean(0), train[0].std(0) + 1e-9
    model = MLPClassifier((64, 64), alpha=1e-4, max_iter=25, random_state=seed)
    model.fit((train[0] - mean) / std, train[1])
    x, y = (test[0] - mean) / std, test[1]

    def figures(values: F32) -> tuple[float, float]:
        found = model.predict(values)
        return float(jaccard_score(y, found, average="macro")), float((found == y).mean())

    base, rng, falls = figures(x), np.random.default_rng(seed), []
    for column in range(x.shape[1]):
        changed = x.copy()
        changed[:, column] = rng.permutation(changed[:, column])
        falls.append(np.subtract(base, figures(changed)))
    order = np.argsort(-np.array(falls), axis=0)
    return base[0], [names[i] for i in order[:, 0]], [names[i] for i in order[:, 1]]


def perceptrons(
    train: tuple[F32, Labels], test: tuple[F32, Labels], names: Sequence[str], title: str
) -> None:
    """Prints the leading channels of several seeds, and the ranks of coherence and wetness."""
    for seed in range(SEEDS):
        iou, by_iou, by_accuracy = ranks(train, test, names, seed)
        told = ", ".join(
            f"{name} {by_iou.index(name) + 1} and {by_accuracy.index(name) + 1}"
            for name in ("coherence", "TC_wetness")
        )
        print(
            f"{title}, seed {seed}: mean IoU {iou:.3f}; by IoU {by_iou[:5]}; by accuracy {by_accuracy[:5]}; "
            f"ranks {told}"
        )


def spectra(path: Path) -> tuple[dict[str, F32], Labels]:
    """Channels and classes of the labelled real pixels.

    Raises:
        SourceError: the table is not there, or another.
    """
    columns = [name.replace("B0", "B") for name in BANDS]
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        values = np.array([[float(row[name] or "nan") for name in columns] for row in rows], np.float32)
        classes = np.array([int(float(row["class"])) for row in rows], np.uint8)
    except (OSError, KeyError, ValueError, TypeError) as error:
        what = "the table s2_l2a_labelled_pixels.csv"
        raise SourceError(f"pixels {path} ({error!r})", what, "check the path") from error
    whole = np.isfinite(values).all(axis=1)
    bands = dict(zip(BANDS, values[whole].T, strict=True))
    return bands, classes[whole]


def derived(bands: Mapping[str, F32]) -> dict[str, F32]:
    """Wetness and two indices (n,) of bands (n,)."""
    stack = np.stack([bands[name] for name in BANDS])[:, None]
    pairs = {"NDSI": ("B03", "B11"), "NDVI": ("B08", "B04")}
    made = {name: normalized_difference(bands[a][None], bands[b][None])[0] for name, (a, b) in pairs.items()}
    return {**made, "TC_wetness": tasselled_cap(stack)[2, 0]}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser(description=__doc__)
    parser.add_argument("patches", type=Path)
    parser.add_argument("--spectra", type=Path)
    given = parser.parse_args(arguments)
    patches = Patches.open(given.patches)
    real = spectra(given.spectra) if given.spectra else None
    names = list(patches.channels)
    train, test = pixels(patches, "train", 100), pixels(patches, "test", 200)
    features = {name: train[0][:, k] for k, name in enumerate(names)}
    by_class = [f"{features['coherence'][train[1] == k].mean():.2f}" for k in range(5)]
    print(f"simulated: mean coherence of the classes 0 to 4: {', '.join(by_class)}")
    report(features, train[1], PAIRS)
    if real is not None:
        bands, labels = real
        print(f"real pixels: {len(labels)}")
        report({**bands, **derived(bands)}, labels, SPECTRA_PAIRS)
    perceptrons(train, test, names, "all channels")
    no_band = [
        k for k, n in enumerate(names) if n not in (*BANDS, "NDVI", "NDSI", "NDWI", "NDGI") and n[:3] != "PCA"
    ]
    few = [names[k] for k in no_band]
    perceptrons((train[0][:, no_band], train[1]), (test[0][:, no_band], test[1]), few, "tasselled cap alone")


if __name__ == "__main__":
    main()
