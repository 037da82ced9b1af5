"""A block from features to bytes by numpy, the model called batch by batch: the way for every model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cryoscale.infer.encode import Confidence, encode
from cryoscale.infer.predict import Carried, Mapped, Predict, Tiling, predict_window, valid_pixels

if TYPE_CHECKING:
    from cryoscale.grid import Window


class ArrayEngine:
    """Maps windows by any model; the counterpart of :class:`device.DeviceEngine`, and its oracle.

    Args:
        model: see :data:`predict.Predict`.
        tiling: the lattice, and the tiles a batch.
        confidence: what the layer of that name holds.
    """

    wire: None = None
    """Features come as they are."""

    def __init__(self, model: Predict, tiling: Tiling, confidence: Confidence) -> None:
        self._model, self._tiling, self._confidence = model, tiling, confidence

    def shrink_to(self, batch: int) -> None:
        """From now on so many tiles at once."""
        self._tiling = replace(self._tiling, batch=batch)

    def predict(self, features: Carried, window: Window) -> Mapped:
        """The bands of ``window``, as :func:`encode.encode` names them.

        Raises:
            OperatorError: if the model answers with another shape, or not finite on a valid pixel.
        """
        if features.recipe is not None:
            from cryoscale.infer.derive import derived  # and with it torch, which not every model has

            features = derived(features)
        array, taken = features.array, list(features.taken)
        found = predict_window(
            array if taken == list(range(array.shape[0])) else array[taken],
            (features.extent.row, features.extent.col),
            window,
            predict=self._model,
            tiling=self._tiling,
            valid=valid_pixels(array, features.optical),
        )
        bands = encode(found.probability, found.disagreement, self._confidence)
        return Mapped(bands, found.tiles, found.tiles_skipped)
