"""What every model is to the rest of the house."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PredictsTiles(Protocol):
    """What every model is to the rest: a callable (n, c, h, w) to (n, k, h, w) that tells its channels."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels it takes, in order."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes it answers with, in order."""

    @property
    def pca(self) -> dict[str, Any] | None:
        """Mean (12,) and components (3, 12) of the basis that channels PCA1-3 were made with."""

    @property
    def tile_multiple(self) -> int:
        """Tiles must be a multiple of this high and wide, in pixels."""

    @property
    def needs_halo(self) -> bool:
        """False if every pixel's answer depends on that pixel alone."""

    @property
    def needs_location(self) -> bool:
        """True if it takes the location codes (n, 4) of the tiles as its second argument."""

    def __call__(
        self, features: NDArray[np.float32], location: NDArray[np.float32] | None = None, /
    ) -> NDArray[np.float32]:
        """Class probabilities (n, k, h, w) of features (n, c, h, w)."""

    def describe(self) -> dict[str, Any]:
        """What a run's manifest records of the model."""
