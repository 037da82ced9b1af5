"""The page that a map is drawn on, a picture laid on it pixel by pixel, and the page as an image."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryoscale.write.furniture import INK, Frame

UNMAPPED = "#cdd1d6"
DPI = 200


def sheet(frame: Frame, width_in: float, dpi: int) -> tuple[Figure, Axes]:
    """An empty page of a width in inches, its axes in the metres of a frame."""
    height_px, width_px = frame.shape
    figure = Figure(figsize=(width_in, width_in * height_px / width_px), dpi=dpi)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(frame.west_m, frame.east_m), ylim=(frame.south_m, frame.north_m), aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(UNMAPPED)
    for spine in axes.spines.values():
        spine.set(edgecolor=INK, linewidth=1.0)
    return figure, axes


class Picture(Artist):
    """Pixels (y, x, 4) in bytes over all of the axes, the nearest of them for each of the page.

    ``imshow`` would do the same by way of four copies in floats, a third of a gigabyte.
    """

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        super().__init__()
        self._picture = picture
        self.set_zorder(1)

    def draw(self, renderer: Any) -> None:
        """Called by matplotlib; it counts rows from below."""
        assert self.axes is not None
        box = self.axes.bbox
        rows, cols = (
            ((np.arange(count) + 0.5) * (size / count)).astype(int)
            for count, size in zip((round(box.height), round(box.width)), self._picture.shape, strict=False)
        )
        context = renderer.new_gc()
        renderer.draw_image(context, round(box.x0), round(box.y0), self._picture[rows[::-1, None], cols])
        context.restore()


@dataclass(frozen=True)
class Plate:
    """One picture.

    Attributes:
        title: what it shows.
        caption: how to read it.
        webp: the picture.
    """

    title: str
    caption: str
    webp: bytes


def webp(figure: Figure) -> bytes:
    """A page as a picture; lossy, at a tenth of a PNG's bytes: a confidence is noise to PNG.

    Of the efforts that an encoder can make, one that takes half the usual one's time for 4 % more bytes.
    """
    return image(figure, 0.08, format="webp", pil_kwargs={"quality": 82, "method": 2})


def image(figure: Figure, margin_in: float, **how: Any) -> bytes:
    """A page with all that stands around its axes, as a file of a format; drawn once.

    ``bbox_inches="tight"`` finds the same box after drawing all that is then drawn again.
    """
    canvas: Any = figure.canvas
    box = figure.get_tightbbox(canvas.get_renderer()).padded(margin_in)
    content = io.BytesIO()
    figure.savefig(content, dpi=figure.dpi, facecolor="white", bbox_inches=box, **how)
    return content.getvalue()
