"""A patch set as finished weights want it: the same channels, and components in the basis of their card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoscale.errors import SourceError
from cryoscale.features.channels import BANDS
from cryoscale.learn.patches import SPLITS, Patches
from cryoscale.learn.places import code_of
from cryoscale.learn.scores import NO_DATA
from cryoscale.models.protocol import PredictsTiles
from cryoscale.models.variants import MonteCarloDropout
from cryoscale.models.weights import Card, refuse_other_classes

_COMPONENTS = ("PCA1", "PCA2", "PCA3")


class SuitedPatches:
    """The patches of a set for a model that was not made from it.

    A set made for another model has channels PCA1-3 in another basis. They are made anew from its bands,
    as :func:`cryoscale.features.stack.build_stack` would, up to the rounding of what is stored.

    Raises:
        SourceError: if there is no such set, or it has other channels than the weights.
        WeightsError: if the weights are for other classes.
    """

    def __init__(self, path: str | Path, card: Card) -> None:
        self.path, self.classes = path, len(card.classes)
        refuse_other_classes(card.classes)
        self.patches = Patches.open(path)
        have, want = self.patches.channels, card.channels
        if have != want:
            differ = [
                f"channel {i + 1} is {a}" for i, (a, b) in enumerate(zip(have, want, strict=False)) if a != b
            ]
            given = f"patches {path} of {len(have)} channels{', whose ' + differ[0] if differ else ''}"
            expected = f"the {len(want)} channels of the weights, in their order"
            raise SourceError(given, expected, "make patches for these weights")
        self._pca = None
        basis = self.patches.attrs.get("pca")
        if card.pca is not None and set(_COMPONENTS + BANDS) <= set(want):
            mean, components = np.array(card.pca.mean), np.array(card.pca.components)
            if basis is None or not (
                np.array_equal(mean, basis["mean"]) and np.array_equal(components, basis["components"])
            ):
                self._pca = mean, components
                self._bands = [want.index(name) for name in BANDS]
                self._slots = [want.index(name) for name in _COMPONENTS]

    @property
    def rebased(self) -> bool:
        """True where the components are made anew."""
        return self._pca is not None

    def indices(self, split: str) -> NDArray[np.int64]:
        """Numbers of the split's patches.

        Raises:
            SourceError: if there are none, they are labelled with fewer than two of the model's classes, or
                hold no value.
        """
        indices = self._indices(split)
        if not len(indices):
            given = f"patches {self.path} with none in split {split!r}"
            raise SourceError(given, "a split with patches", "name another split, or make more patches")
        found = np.flatnonzero(self.patches.class_counts(indices, NO_DATA))
        if len(found) < 2 or found.max() >= self.classes:
            given = f"split {split!r} of {self.path} with labels {', '.join(map(str, found)) or 'of nothing'}"
            expected = f"at least two of the classes 0-{self.classes - 1}"
            raise SourceError(given, expected, "take patches that show several classes")
        self.patches.refuse_empty(indices)
        return indices

    def has(self, split: str) -> bool:
        """True where the set has patches of the split."""
        return bool(len(self._indices(split)))

    def _indices(self, split: str) -> NDArray[np.int64]:
        if split not in SPLITS:
            raise SourceError(f"split {split!r}", f"one of {', '.join(SPLITS)}", "correct its name")
        return self.patches.indices(split)

    def ask(
        self, predictor: PredictsTiles, x: NDArray[np.float32], indices: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Probabilities (n,k,p,p) of stacks (n,c,p,p), told where the patches lie if the network wants it."""
        codes = self.codes(predictor, indices)
        given = (x,) if codes is None else (x, codes)
        if isinstance(predictor, MonteCarloDropout):
            columns = [self.patches.columns[name][indices] for name in ("epsg", "row", "col")]
            return predictor(*given, places=np.stack(columns, axis=1))
        return predictor(*given)

    def codes(self, predictor: PredictsTiles, indices: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Location codes (n,4) of patches, for a network that wants them."""
        if not predictor.needs_location:
            return None
        return np.stack([code_of(self.patches, int(index)) for index in indices])

    def read(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Stack (c,p,p) float32 and labels (p,p) u1 of one patch."""
        x, y = self.patches.read(int(index))
        if self._pca is not None:
            mean, components = self._pca
            bands = x[self._bands].astype(np.float64) - mean[:, np.newaxis, np.newaxis]
            x[self._slots] = np.tensordot(components, bands, axes=1)
        return x, y
