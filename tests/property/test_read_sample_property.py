"""A part of a window is the window's part, bit for bit, whatever the source."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from cryoscale.grid import Window
from cryoscale.read.lattice import ArraySource, Lattice, mosaics
from cryoscale.read.sample import fetch, resample

WHOLE = Window(32645, -310_000, 48_000, 300, 310)


@lru_cache
def made(kind: str) -> tuple[ArraySource, str, Any]:
    """A source of a kind that a run meets, the method it is read with, and the window's whole."""
    rng = np.random.default_rng(11)
    res, crs, method = {
        "20 m": (20.0, "EPSG:32645", "bilinear"),
        "60 m": (60.0, "EPSG:32645", "bilinear"),
        "classes": (20.0, "EPSG:32645", "nearest"),
        "off the lattice": (10.0, "EPSG:32645", "bilinear"),
        "next zone": (20.0, "EPSG:32644", "bilinear"),
        "polar": (120.0, "EPSG:3413", "bilinear"),
        "elevation": (1 / 3600, "EPSG:4326", "cubic"),
    }[kind]
    bounds = Transformer.from_crs(WHOLE.epsg, crs, always_xy=True).transform_bounds(*WHOLE.pad(30).bounds_m)
    shift = 0.1353 * res if kind == "off the lattice" else 0.0
    west, north = bounds[0] // res * res + shift, bounds[3] // res * res + shift
    shape = int((north - bounds[1]) / res), int((bounds[2] - west) / res)
    values = rng.integers(1, 12_000, shape).astype(np.float32)
    values[rng.random(shape) < 0.01] = np.nan
    source = ArraySource(Lattice(crs, (res, 0.0, west, 0.0, -res, north), *shape), values)
    return source, method, resample(source, WHOLE.geobox, method)  # type: ignore[arg-type]


KINDS = ["20 m", "60 m", "classes", "off the lattice", "next zone", "polar", "elevation"]


@st.composite
def parts(draw: st.DrawFn) -> Window:
    row, col = draw(st.integers(0, WHOLE.height - 1)), draw(st.integers(0, WHOLE.width - 1))
    height, width = draw(st.integers(1, WHOLE.height - row)), draw(st.integers(1, WHOLE.width - col))
    return Window(WHOLE.epsg, WHOLE.row + row, WHOLE.col + col, height, width)


@pytest.mark.parametrize("kind", KINDS)
@given(part=parts())
def test_reading_a_part_gives_the_part_of_the_whole(kind: str, part: Window) -> None:
    source, method, whole = made(kind)
    fetched = fetch(source, part.geobox)
    assert fetched is not None
    got = resample(fetched, part.geobox, method)  # type: ignore[arg-type]
    np.testing.assert_array_equal(got, whole[part.slices_in(WHOLE)])
    joined = resample(mosaics([fetched])[0], part.geobox, method)  # type: ignore[arg-type]
    assert joined is not None
    np.testing.assert_array_equal(np.isnan(joined), np.isnan(whole[part.slices_in(WHOLE)]))


@given(part=parts(), split=st.integers(1, 200))
def test_a_mosaic_of_tiles_gives_the_part_of_the_whole_mosaic(part: Window, split: int) -> None:
    source, method, _ = made("elevation")
    a, b, c, d, e, f = source.lattice.affine
    height, width = source.values.shape
    left = ArraySource(Lattice("EPSG:4326", (a, b, c, d, e, f), height, split), source.values[:, :split])
    moved = (a, b, c + a * split, d, e, f)
    right = ArraySource(Lattice("EPSG:4326", moved, height, width - split), source.values[:, split:])
    whole = resample(mosaics([left, right])[0], WHOLE.geobox, method)  # type: ignore[arg-type]
    near = [cut for tile in (left, right) if (cut := fetch(tile, part.geobox)) is not None]
    got = resample(mosaics(near)[0], part.geobox, method)  # type: ignore[arg-type]
    assert whole is not None
    np.testing.assert_array_equal(got, whole[part.slices_in(WHOLE)])
