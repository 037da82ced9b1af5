"""A picture sheet of patches with their labels, to look at before anything is learnt from them.

For each split and class two patches that hold much of the class, and below them those whose labels agree
least with their spectra. Each is shown thrice: in true colour; in short-wave infrared, near infrared and red,
where snow and ice are cyan, water is black, plants are green and rock and debris are red to brown, with
the edges of the labelled ice on it; and with the labels in the colours of the map.
"""

from __future__ import annotations

import io
import os
from datetime import date, timedelta

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from cryoscale.grid import RESOLUTION_M, transformer
from cryoscale.learn.labels import CLEAN_ICE, DEBRIS
from cryoscale.learn.patches import Patches
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA
from cryoscale.write.furniture import INK
from cryoscale.write.map import CLASS_STYLE, contrast, stretch
from cryoscale.write.store import put

TRUE_COLOUR = ("B04", "B03", "B02")
SWIR = ("B11", "B8A", "B04")

_SAMPLES = 2
_PANEL_IN = 1.5
_CAPTION_IN = 0.26
_DPI = 170
_UNKNOWN = "#c9a6c9"
_ICE_EDGE, _DEBRIS_EDGE = "#ffe600", "#ff5a1f"


def draw_sheet(path: str | os.PathLike[str], patches: Patches, *, seed: int = 0) -> None:
    """Draws the sheet of a set as a PNG at ``path`` (a file or fsspec URL).

    Args:
        path: of the picture; it is replaced whole.
        patches: with the optical bands among its channels.
        seed: of the choice among patches that hold much of a class.
    """
    splits = [split for split in ("train", "validation", "test") if len(patches.indices(split))]
    rows = [(k, n) for k in range(len(CLASS_NAMES)) for n in range(_SAMPLES)]
    doubted = [(len(CLASS_NAMES), n) for n in range(_SAMPLES)]
    width, height = 3 * _PANEL_IN * len(splits) + 0.9, (_PANEL_IN + _CAPTION_IN) * len(rows + doubted) + 0.95
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    for left, split in enumerate(splits):
        chosen = choose(patches, split, seed=seed)
        x = (0.65 + left * (3 * _PANEL_IN + 0.1)) / width
        count = len(patches.indices(split))
        figure.text(x, 1 - 0.28 / height, f"{split} ({count} patches)", fontsize=11, weight="bold", color=INK)
        for line, (k, n) in enumerate(rows + doubted):
            if (index := chosen.get((k, n))) is None:
                continue
            top = height - 0.42 - line * (_PANEL_IN + _CAPTION_IN)
            name = CLASS_NAMES[k] if k < len(CLASS_NAMES) else None
            figure.text(x, (top - 0.17) / height, _caption(patches, index, name), fontsize=5.6, color=INK)
            stack, labels = patches.read(index)
            pictures = [_picture(stack, patches.channels, bands) for bands in (TRUE_COLOUR, SWIR)]
            pictures.append(_labelled(pictures[0], labels))
            for panel, picture in enumerate(pictures):
                box = (
                    x + panel * _PANEL_IN / width,
                    (top - _CAPTION_IN + 0.05 - _PANEL_IN) / height,
                    0.98 * _PANEL_IN / width,
                    0.98 * _PANEL_IN / height,
                )
                _draw_panel(figure.add_axes(box), picture, labels if panel == 1 else None)
    for k in range(len(CLASS_NAMES) + 1):
        middle = height - 0.42 - (2 * k + 1) * (_PANEL_IN + _CAPTION_IN)
        words = _title(k) if k < len(CLASS_NAMES) else "Label against spectrum"
        figure.text(
            0.3 / width,
            middle / height,
            words,
            fontsize=10,
            weight="bold",
            color=INK,
            rotation=90,
            ha="center",
            va="center",
        )
    _draw_legend(figure, patches, height)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI, facecolor="white")
    put(path, png.getvalue())


def choose(patches: Patches, split: str, *, seed: int) -> dict[tuple[int, int], int]:
    """Patches of a split to look at, by (class, place in the row); the row after the classes is for doubt.

    A class's are drawn from the third with most of it, from those first that are not shown yet. Doubtful are
    those in which labels and NDSI disagree most.
    """
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, int], int] = {}
    left = patches.indices(split)
    doubt = patches.columns["doubtful"][left]
    for n, index in enumerate(left[np.argsort(-doubt, kind="stable")][:_SAMPLES]):
        if patches.columns["doubtful"][index] > 0:
            found[len(CLASS_NAMES), n] = int(index)
    # The rarest class chooses first: others have patches enough.
    counts = patches.columns["class_pixels"][left]
    for k in np.argsort(counts.sum(axis=0), kind="stable"):
        pixels = patches.columns["class_pixels"][:, k]
        most = left[np.argsort(-pixels[left], kind="stable")][: max(_SAMPLES, len(left) // 3)]
        drawn = [int(i) for i in rng.permutation(most) if pixels[i]]
        shown = set(found.values())
        for n, index in enumerate(sorted(drawn, key=lambda i: i in shown)[:_SAMPLES]):
            found[int(k), n] = index
    return found


def _draw_panel(axes: Axes, picture: NDArray[np.float32], edges: NDArray[np.uint8] | None) -> None:
    axes.imshow(picture, interpolation="none")
    if edges is not None:
        _draw_edge(axes, np.isin(edges, (CLEAN_ICE, DEBRIS)), _ICE_EDGE)
        _draw_edge(axes, edges == DEBRIS, _DEBRIS_EDGE)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(edgecolor=INK, linewidth=0.4)


def _picture(
    x: NDArray[np.float32], channels: tuple[str, ...], bands: tuple[str, ...]
) -> NDArray[np.float32]:
    """Three bands (y, x, 3) in 0-1; grey where one has no data."""
    planes = np.stack([x[channels.index(name)] for name in bands], axis=-1)
    known = np.isfinite(planes).all(axis=-1)
    out = np.full(planes.shape, 0.8, np.float32)
    if known.any():
        out[known] = stretch(planes[known], *contrast(planes[known]))
    return out


def _labelled(picture: NDArray[np.float32], y: NDArray[np.uint8]) -> NDArray[np.float32]:
    out = picture.copy()
    styles = {value: (colour, opacity) for value, (_, colour, opacity) in CLASS_STYLE.items()}
    for value, (colour, opacity) in {**styles, NO_DATA: (_UNKNOWN, 0.85)}.items():
        here = y == value
        out[here] = (1 - opacity) * out[here] + opacity * np.array(to_rgb(colour), np.float32)
    return out


def _draw_edge(axes: Axes, mask: NDArray[np.bool_], colour: str) -> None:
    if mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.6)


def _caption(patches: Patches, index: int, name: str | None) -> str:
    place = patches.place(index)
    x = (place.col + patches.patch_px / 2) * RESOLUTION_M
    y = -(place.row + patches.patch_px / 2) * RESOLUTION_M
    lon, lat = transformer(f"EPSG:{place.epsg}", "EPSG:4326").transform(x, y)
    where = f"{abs(lat):.4f}{'N' if lat >= 0 else 'S'} {abs(lon):.4f}{'E' if lon >= 0 else 'W'}"
    when = str(date(1970, 1, 1) + timedelta(days=place.day)) if place.day else str(place.year or "")
    region = patches.attrs.get("regions", {}).get(str(place.region), f"region {place.region}")
    if name is None:
        share, what = patches.columns["doubtful"][index], "in doubt"
    else:
        pixels = patches.columns["class_pixels"][index]
        share, what = pixels[CLASS_NAMES.index(name)] / max(pixels.sum(), 1), _title(CLASS_NAMES.index(name))
    told = f"{share:.0%}" if share == 0 or share >= 0.01 else "under 1%"
    return f"no. {index}  {region[:28]}  {when}  {where}  {told} {what.lower()}"


def _title(k: int) -> str:
    return CLASS_STYLE[k][0] if k in CLASS_STYLE else CLASS_NAMES[k].capitalize()


def _draw_legend(figure: Figure, patches: Patches, height: float) -> None:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, alpha=max(opacity, 0.6), edgecolor=INK, linewidth=0.4, label=label)
        for label, colour, opacity in CLASS_STYLE.values()
    ]
    handles += [
        Patch(facecolor=_UNKNOWN, edgecolor=INK, linewidth=0.4, label="Not learnt from"),
        Line2D([], [], color=_ICE_EDGE, label="Edge of labelled ice"),
        Line2D([], [], color=_DEBRIS_EDGE, label="Edge of labelled debris"),
    ]
    figure.legend(
        handles=handles,
        ncols=4,
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        frameon=False,
        fontsize=7.5,
        columnspacing=1.2,
        handlelength=1.5,
    )
    edge_km = patches.patch_px * RESOLUTION_M / 1000
    words = f"Each picture is {edge_km:g} km wide: true colour | {', '.join(SWIR)} | labels. Grey: no data"
    figure.text(0.99, 0.12 / height, words, fontsize=7.5, ha="right", color=INK)
