"""A model asked several times about each tile, and the mean of its answers: turned, or with dropout.

Both cost a pass of the network for every answer. The mean answers like a model: what stands behind it
shows in its probabilities, which spread where the answers differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.errors import InputError
from cryoscale.features.turn import TURNS, turn_map_back, turn_stack

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from cryoscale.models.protocol import PredictsTiles

_WORD = 1 << 32


class _Variants:
    """What a model says of itself, passed on, but for a curve that was fitted on other answers than these."""

    def __init__(self, inner: PredictsTiles, **asked: Any) -> None:
        self.inner = inner
        self.channels, self.classes, self.pca = inner.channels, inner.classes, inner.pca
        self.tile_multiple, self.needs_halo = inner.tile_multiple, inner.needs_halo
        self.needs_location = inner.needs_location
        self.device: Any = getattr(inner, "device", "cpu")
        self.card: Any = getattr(inner, "card", None)
        self.asked = {**getattr(inner, "asked", {}), **asked}
        self.calibration: Any = self.card.curve(**self.asked) if self.card else None


class Turned(_Variants):
    """The mean of a model's answers on the eight flips and quarter turns of each tile.

    Aspect turns with the tile, see :mod:`cryoscale.features.turn`. The answers are added in one order, so
    a tile's mean is the same to the last bit wherever it is asked for.

    Raises:
        InputError: if the model sees each pixel by itself, for which a turned tile is the same tile; or takes
            aspect without slope, since flat ground, whose aspect is 0 too, then cannot be told from a face
            that looks north, and only the latter turns.
    """

    def __init__(self, inner: PredictsTiles) -> None:
        super().__init__(inner, flips=True)
        if not inner.needs_halo:
            given = f"flips with {inner.describe()['name']}, which sees each pixel by itself"
            raise InputError(given, "a network that sees a pixel's surroundings", "leave flips out")
        if "aspect" in inner.channels and "slope" not in inner.channels:
            given = f"flips with {inner.describe()['name']}, which takes aspect without slope"
            raise InputError(given, "slope too, which tells flat ground from a north face", "leave flips out")

    def __call__(
        self, features: NDArray[np.float32], location: NDArray[np.float32] | None = None, /
    ) -> NDArray[np.float32]:
        """Probabilities (n, k, h, w) of features (n, c, h, w); a turned tile keeps its location."""
        more = () if location is None else (location,)
        total: NDArray[np.float32] | None = None
        for quarters, mirror in TURNS:
            turned = turn_stack(features, self.channels, quarters, mirror)
            answer = turn_map_back(self.inner(turned, *more), quarters, mirror)
            total = answer if total is None else total + answer
        assert total is not None  # there are eight
        return total / np.float32(len(TURNS))

    def describe(self) -> dict[str, Any]:
        """The model's own entry, and how many turns."""
        return {**self.inner.describe(), "flips": len(TURNS)}


class MonteCarloDropout(_Variants):
    """The mean of a network's answers with its dropout left on, ``samples`` for each tile.

    Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142. What is dropped is drawn from the tile's
    place in the world, and tiles go through one by one: neither blocks nor workers nor the order of the
    work can change a pixel.

    Args:
        inner: the model, or its turned form.
        network: the torch module within, whose dropout is switched on for good.
        samples: answers a tile.

    Raises:
        InputError: if the network has no dropout.
    """

    needs_place = True

    def __init__(self, inner: PredictsTiles, network: torch.nn.Module, samples: int) -> None:
        super().__init__(inner, mc_dropout=samples)
        self.samples = samples
        if not _leave_dropout_on(network):
            given = f"mc_dropout {samples} with {inner.describe()['name']}, which has no dropout"
            raise InputError(given, "a network with dropout, such as glavitu", "leave mc_dropout out")

    def __call__(
        self,
        features: NDArray[np.float32],
        location: NDArray[np.float32] | None = None,
        /,
        *,
        places: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Probabilities (n, k, h, w) of features (n, c, h, w) at places (n, 3): EPSG, world row and column.

        Tiles without a place are told apart by their number in the batch.
        """
        if places is None:
            places = np.stack([np.zeros(len(features)), np.zeros(len(features)), np.arange(len(features))], 1)
        given = (features,) if location is None else (features, location)
        answers = [
            self._tile(place, *(array[n : n + 1] for array in given)) for n, place in enumerate(places)
        ]
        return np.concatenate(answers)

    def _tile(self, place: NDArray[Any], *tile: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        devices = [self.device] if getattr(self.device, "type", "cpu") == "cuda" else []
        total: NDArray[np.float32] | None = None
        for sample in range(self.samples):
            with torch.random.fork_rng(devices):
                torch.manual_seed(_seed(place, sample))
                answer = self.inner(*tile)
            total = answer if total is None else total + answer
        assert total is not None  # the configuration asks for at least two
        return total / np.float32(self.samples)

    def describe(self) -> dict[str, Any]:
        """The model's own entry, and how many answers."""
        return {**self.inner.describe(), "mc_dropout": self.samples}


def _seed(place: NDArray[Any], sample: int) -> int:
    """A seed of its own for every sample of every place; world rows and columns may be negative."""
    words = [int(part) % _WORD for part in (*place, sample)]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _leave_dropout_on(network: torch.nn.Module) -> bool:
    """Put what drops, and nothing else, into training mode; False where nothing does."""
    from torch import nn
    from torch.nn.modules.dropout import _DropoutNd

    found = False
    for module in network.modules():
        drops = isinstance(module, _DropoutNd) and module.p > 0
        drops |= isinstance(module, nn.MultiheadAttention) and module.dropout > 0
        # In evaluation mode this layer may take a fused path that leaves its dropout out.
        if drops or isinstance(module, nn.TransformerEncoderLayer):
            module.training = True
        found |= drops
    return found
