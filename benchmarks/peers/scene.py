"""The scene: 30 channels in files, a file each, so that every way reads what it wants and holds no more.

Simulated ranges lie on two UTM zones; a zone that is smaller than the scene is mirrored at its rims, which
leaves no step where the mirror stands.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from benchmarks import overlap
from cryoscale.bench import ground
from cryoscale.features.channels import CHANNELS
from cryoscale.features.stack import build_stack
from cryoscale.grid import Window

SEED, REGIME = 501, "himalaya"
"""A range that the weights of the package were not trained on."""

NOTE, TIFF = "scene.json", "scene.tif"


@dataclass(frozen=True)
class Scene:
    """Channels that lie in ``folder`` on the window ``held``, of which ``window`` is to be mapped."""

    folder: Path
    held: Window
    window: Window

    def read(self, wanted: Window) -> tuple[NDArray[np.float32], Window]:
        """Features (c, h, w) of ``wanted`` as far as they are held, and the window of those."""
        extent = wanted.intersect(self.held)
        if extent is None:
            raise ValueError(f"{wanted} lies outside {self.held}")
        rows, cols = extent.slices_in(self.held)
        out = np.empty((len(CHANNELS), *extent.shape), np.float32)
        for number, plane in enumerate(out):
            # mapped anew for each channel, or the pages of all of them would count as this process's memory
            plane[:] = np.load(channel_path(self.folder, number), mmap_mode="r")[rows, cols]
        return out, extent

    def corner(self, edge_px: int) -> Scene:
        """The same channels, of which only a square in the upper left is to be mapped."""
        return Scene(self.folder, self.held, replace(self.held, height=edge_px, width=edge_px))


def open_scene(folder: Path) -> Scene:
    """The scene in a folder, all of it to be mapped."""
    held = Window(**json.loads((folder / NOTE).read_text("utf-8"))["window"])
    return Scene(folder, held, held)


def origin_of(folder: Path) -> str:
    """In words, what the scene in a folder was made of."""
    return str(json.loads((folder / NOTE).read_text("utf-8"))["made_of"])


def make(size: str | None, edge_px: int) -> tuple[NDArray[np.float32], str]:
    """Features (c, edge_px, edge_px) of a simulated range of ``size``, of made-up bands where that is None.

    The second is in words what they are.
    """
    if size is None:
        stack = build_stack(ground.bands(edge_px), pca=ground.PCA)
        return np.asarray(stack.values, np.float32), "made-up bands"
    scale = overlap.Scale(size, ((SEED, REGIME),), ())
    with tempfile.TemporaryDirectory(prefix="cryoscale-peers-") as folder:
        found = next(overlap.grounds(scale, Path(folder)))
    features = with_data(found.features)
    height, width = features.shape[1:]
    told = f"{height} x {width} px of the simulated range {size} {SEED} {REGIME}, EPSG:{found.window.epsg}"
    return mirrored(features, edge_px), f"{told}, mirrored at its rims"


def write_scene(folder: Path, stack: NDArray[np.float32], made_of: str, block_px: int) -> None:
    """Channels (c, h, w) to files, the upper left pixel at the corner of a block of ``block_px``."""
    folder.mkdir(parents=True, exist_ok=True)
    first = ground.block_of(block_px).window
    window = Window(first.epsg, first.row, first.col, *stack.shape[1:])
    for number, plane in enumerate(stack):
        np.save(channel_path(folder, number), plane)
    note = {"window": asdict(window), "made_of": made_of}
    # last, since where it lies a scene is taken for whole
    (folder / NOTE).write_text(json.dumps(note), "utf-8")


def channel_path(folder: Path, number: int) -> Path:
    """The file of a channel (y, x)."""
    return folder / f"{number:02}.npy"


def mirrored(stack: NDArray[np.float32], edge_px: int) -> NDArray[np.float32]:
    """Features (c, edge_px, edge_px): the first pixels of (c, h, w), mirrored below and to the right."""
    height, width = stack.shape[1:]
    more = [(0, 0), (0, max(edge_px - height, 0)), (0, max(edge_px - width, 0))]
    return np.pad(stack[:, :edge_px, :edge_px], more, mode="symmetric")


def with_data(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows and columns of (c, h, w) from the first to the last that hold data over half their length.

    A region that is upright in degrees lies aslant in its blocks' zone, with nothing around it.
    """
    valid = np.isfinite(stack[0])
    spans = []
    for axis in (1, 0):
        share = valid.mean(axis=axis)
        full = np.flatnonzero(share >= share.max() / 2)
        spans.append(slice(int(full[0]), int(full[-1]) + 1))
    return stack[:, spans[0], spans[1]]


def write_tiff(scene: Scene) -> None:
    """All channels of a scene as one GeoTIFF beside them."""
    profile = {
        "driver": "GTiff",
        "count": len(CHANNELS),
        "height": scene.held.height,
        "width": scene.held.width,
        "dtype": "float32",
        "crs": f"EPSG:{scene.held.epsg}",
        "transform": scene.held.geobox.affine,
        "nodata": float("nan"),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "interleave": "band",
        "bigtiff": "yes",
    }
    with rasterio.open(scene.folder / TIFF, "w", **profile) as file:
        for number in range(len(CHANNELS)):
            file.write(np.load(channel_path(scene.folder, number)), number + 1)
