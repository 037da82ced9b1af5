"""Seeded noise and smooth resampling on regular grids, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryoscale.kernel import kernel

F32 = NDArray[np.float32]


@kernel
def _hash(x: int, y: int, seed: int) -> int:
    h = (np.int64(x) * np.int64(374761393) + np.int64(y) * np.int64(668265263)) ^ np.int64(seed * 2246822519)
    h = (h ^ ((h >> np.int64(13)) & np.int64(0x7FFFFFFFFFFFF))) * np.int64(1274126177)
    h = h ^ ((h >> np.int64(16)) & np.int64(0xFFFFFFFFFFFF))
    return int(h & np.int64(0xFF))


@kernel
def _add_octave(out: F32, cell_px: float, amplitude: float, seed: int, ridged: bool) -> None:
    """Add one octave of gradient noise (about -0.7..0.7, ridged 0..1) to ``out`` (y, x)."""
    turn = 2.0 * np.pi / 256.0
    cosine, sine = np.empty(256), np.empty(256)
    for k in range(256):
        cosine[k], sine[k] = np.cos(k * turn), np.sin(k * turn)
    rows, cols = out.shape
    for r in range(rows):
        fy = r / cell_px + 0.37
        j = int(np.floor(fy))
        v = fy - j
        wv = v * v * v * (v * (v * 6.0 - 15.0) + 10.0)
        last = -1
        h00 = h01 = h10 = h11 = 0
        for c in range(cols):
            fx = c / cell_px + 0.61
            i = int(np.floor(fx))
            u = fx - i
            if i != last:
                h00, h10 = _hash(i, j, seed), _hash(i + 1, j, seed)
                h01, h11 = _hash(i, j + 1, seed), _hash(i + 1, j + 1, seed)
                last = i
            wu = u * u * u * (u * (u * 6.0 - 15.0) + 10.0)
            a = cosine[h00] * u + sine[h00] * v
            b = cosine[h10] * (u - 1.0) + sine[h10] * v
            d = cosine[h01] * u + sine[h01] * (v - 1.0)
            e = cosine[h11] * (u - 1.0) + sine[h11] * (v - 1.0)
            top, bottom = a + wu * (b - a), d + wu * (e - d)
            value = top + wv * (bottom - top)
            if ridged:
                value = 1.0 - min(1.0, 2.0 * abs(value))
                value *= value
            out[r, c] += np.float32(amplitude * value)


def fractal(
    shape: tuple[int, int],
    cell_px: float,
    octaves: int,
    seed: int,
    *,
    gain: float = 0.5,
    ridged: bool = False,
) -> F32:
    """Sum of ``octaves`` of gradient noise (y, x), the coarsest of wavelength ``cell_px``.

    Octave k has amplitude ``gain**k``; plain noise is about zero-mean with the first octave in
    -0.7..0.7, ridged noise is crest-like in 0..1 a unit of amplitude. Source: Perlin, K. 2002,
    "Improving noise", https://doi.org/10.1145/566654.566636.
    """
    out: F32 = np.zeros(shape, np.float32)
    for k in range(octaves):
        # 2.03, not 2: lattices of the octaves must not share nodes, or a grid of zeros shows.
        _add_octave(out, cell_px / 2.03**k, gain**k, seed * 31 + k * 7 + 1, ridged)
    return out


@kernel
def _spline(source: F32, out: F32, step: float, start_y: float, start_x: float, dy: F32, dx: F32) -> None:
    height, width = source.shape
    rows, cols = out.shape
    warped = dy.shape[0] == rows
    wy, wx = np.empty(4), np.empty(4)
    for r in range(rows):
        for c in range(cols):
            y, x = start_y + r * step, start_x + c * step
            if warped:
                y += dy[r, c]
                x += dx[r, c]
            j, i = int(np.floor(y)), int(np.floor(x))
            v, u = y - j, x - i
            for w, t in ((wy, v), (wx, u)):
                w[0] = (1.0 - t) ** 3 / 6.0
                w[1] = (3.0 * t**3 - 6.0 * t * t + 4.0) / 6.0
                w[2] = (-3.0 * t**3 + 3.0 * t * t + 3.0 * t + 1.0) / 6.0
                w[3] = t**3 / 6.0
            total = 0.0
            for m in range(4):
                jj = min(max(j + m - 1, 0), height - 1)
                line = 0.0
                for n in range(4):
                    ii = min(max(i + n - 1, 0), width - 1)
                    line += wx[n] * source[jj, ii]
                total += wy[m] * line
            out[r, c] = np.float32(total)


def refine(field: F32, factor: int, warp_px: tuple[F32, F32] | None = None) -> F32:
    """``field`` (y, x) on a grid ``factor`` times finer, by the cubic B-spline of its cell values.

    The B-spline has continuous curvature and never overshoots, so that no trace of the coarse
    grid is seen in a hillshade. ``warp_px`` displaces (y, x) by fine pixels first.
    """
    shape = (field.shape[0] * factor, field.shape[1] * factor)
    out: F32 = np.empty(shape, np.float32)
    none: F32 = np.empty((0, 0), np.float32)
    dy, dx = none, none
    if warp_px is not None:
        dy, dx = (np.asarray(d / factor, np.float32) for d in warp_px)
    start = 0.5 / factor - 0.5
    _spline(np.ascontiguousarray(field, np.float32), out, 1.0 / factor, start, start, dy, dx)
    return out


def coarsen(field: F32, factor: int) -> F32:
    """Block mean of ``field`` (y, x) over ``factor`` x ``factor`` cells; its shape must divide."""
    rows, cols = field.shape
    blocks = field.reshape(rows // factor, factor, cols // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64), np.float32)
