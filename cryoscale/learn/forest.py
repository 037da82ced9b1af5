"""Fitting the classical learner: a random forest on labelled pixels, grown by scikit-learn.

It sees what the networks see, one pixel at a time: standardised channels, 0 where one is missing. What
is grown is copied into :class:`cryoscale.models.forest.RandomForest`, and that is what is kept.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoscale.errors import ExtraError, InputError, SourceError
from cryoscale.models.forest import RandomForest

if TYPE_CHECKING:
    from cryoscale.learn.patches import Patches

Standardise = Callable[[NDArray[np.float32]], torch.Tensor]


def fit_forest(
    patches: Patches,
    indices: Sequence[int] | NDArray[np.int64],
    standard: Standardise,
    *,
    arguments: Mapping[str, Any],
    seed: int,
) -> RandomForest:
    """A forest fitted to as many labelled pixels of each class as there are, up to a limit.

    Args:
        patches: the patch set.
        indices: its patches to learn from.
        standard: physical values (n, c, h, w) to standardised ones, NaN to 0.
        arguments: of :class:`RandomForest`, ``in_channels`` and ``classes`` among them; its
            ``pixels_per_class`` is the limit.
        seed: of the draw of pixels and of the forest.

    Raises:
        InputError: for arguments that make no forest.
        SourceError: if fewer than two classes have labelled pixels.
        ExtraError: if scikit-learn is not installed.
    """
    try:
        forest = RandomForest(**arguments)
    except TypeError as error:
        given = f"arguments {dict(arguments)} ({error})"
        raise InputError(given, "arguments of a random forest", "correct the recipe") from None
    _refuse_without_sklearn()
    x, y = _balanced_pixels(patches, indices, standard, forest, np.random.default_rng(seed))
    grow(forest, x, y, seed=seed)
    return forest


def _balanced_pixels(
    patches: Patches,
    indices: Sequence[int] | NDArray[np.int64],
    standard: Standardise,
    forest: RandomForest,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Standardised pixels (p, c) and their labels (p,), drawn evenly from all pixels of each class."""
    rows = [patches.class_counts([int(index)], forest.classes) for index in indices]
    counts = np.array(rows, np.int64).reshape(-1, forest.classes)
    ranks = [
        np.sort(rng.choice(n, min(n, forest.pixels_per_class), replace=False, shuffle=False))
        for n in counts.sum(axis=0)
    ]
    starts = np.vstack([np.zeros(forest.classes, np.int64), counts.cumsum(axis=0)])
    features, labels = [], []
    for number, index in enumerate(indices):
        x, y = patches.read(int(index))
        flat = y.ravel()
        drawn = []
        for k in range(forest.classes):
            first, last = np.searchsorted(ranks[k], starts[number : number + 2, k])
            drawn.append(np.flatnonzero(flat == k)[ranks[k][first:last] - starts[number, k]])
        chosen = np.concatenate(drawn)
        if len(chosen):
            pixels = standard(x[np.newaxis])[0].flatten(1)[:, torch.from_numpy(chosen)]
            features.append(pixels.T.numpy())
            labels.append(flat[chosen].astype(np.int64))
    found = np.unique(np.concatenate(labels)) if labels else np.empty(0)
    if len(found) < 2:
        given = f"{len(indices)} patches with labelled pixels of {len(found)} classes"
        raise SourceError(given, "labelled pixels of two classes or more", "add patches or labels")
    return np.concatenate(features), np.concatenate(labels)


def grow(forest: RandomForest, x: NDArray[np.float32], y: NDArray[np.int64], *, seed: int) -> None:
    """Fits ``forest`` in place to finite pixels x (p, c) and their labels y (p,).

    Raises:
        ExtraError: if scikit-learn is not installed.
    """
    _refuse_without_sklearn()
    from sklearn.ensemble import RandomForestClassifier

    grown = RandomForestClassifier(
        n_estimators=forest.trees,
        max_leaf_nodes=forest.leaves,
        max_depth=forest.depth,
        min_samples_leaf=forest.min_leaf,
        random_state=seed % 2**32,  # it takes no larger one
        n_jobs=-1,  # threads, and every tree has a seed of its own: their number does not show
    ).fit(x, y)
    fresh = RandomForest(
        forest.in_channels, forest.classes, forest.trees, forest.leaves, forest.depth
    ).state_dict()
    fresh["importance"] = torch.from_numpy(grown.feature_importances_.astype(np.float32))
    for number, estimator in enumerate(grown.estimators_):
        for name, values in _table(estimator.tree_, grown.classes_, forest.classes).items():
            fresh[name][number, : len(values)] = torch.from_numpy(values)
    forest.load_state_dict(fresh)


def _table(tree: Any, labels: NDArray[np.int64], classes: int) -> dict[str, NDArray[Any]]:
    """A tree of scikit-learn as the rows of a :class:`RandomForest`: siblings side by side, root first."""
    order, child = [0], np.arange(tree.node_count, dtype=np.int32)
    for at, node in enumerate(order):  # grows while it is walked: breadth first
        if tree.children_left[node] != -1:
            child[at] = len(order)
            order += [int(tree.children_left[node]), int(tree.children_right[node])]
    inner = tree.children_left[order] != -1
    # Pixels are float32 and thresholds float64: the largest float32 below divides them the same way.
    threshold = tree.threshold[order].astype(np.float32)
    above = threshold.astype(np.float64) > tree.threshold[order]
    threshold[above] = np.nextafter(threshold[above], np.float32(-np.inf))
    value = tree.value[order, 0]
    share = np.zeros((tree.node_count, classes), np.float32)
    share[:, labels] = value / value.sum(axis=1, keepdims=True)
    return {
        "feature": np.where(inner, tree.feature[order], 0).astype(np.int32),
        "threshold": np.where(inner, threshold, np.finfo(np.float32).max).astype(np.float32),
        "child": child,
        "share": share,
    }


def _refuse_without_sklearn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        given = "an installation without scikit-learn"
        raise ExtraError(given, "the extra baselines", "pip install 'cryoscale[baselines]'")
