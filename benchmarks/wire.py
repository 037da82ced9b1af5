"""What each form costs in which features could travel to an actor, and how many tiles/s it lets through.

Bytes are counted, those of the halo of a block of 2048 pixels among them; links are named with what they
carry at most; what rounding costs the sender is measured here, beside what making the features costs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import RESULTS
from benchmarks.command import Parser, command, positive, share
from cryoscale.bench import ground, record
from cryoscale.bench.clock import seconds
from cryoscale.features.channels import CHANNELS
from cryoscale.features.stack import HALO_PX, build_stack
from cryoscale.infer.tiles import read_window
from cryoscale.infer.wire import narrow

FORMS = {
    "float32, 30 channels": 4 * len(CHANNELS),
    "bf16, standardised, 30 channels": 2 * len(CHANNELS),
    "digital numbers, 17 inputs, 13 channels derived there": 2 * 17,
}
"""Bytes a pixel."""

LINKS = {"25 Gbit/s between machines": 3.1, "100 Gbit/s": 12.5, "PCI Express 5 x 16": 50.0}
"""1e9 bytes a second at most; PCI Express as copies from page-locked memory reach it."""

BLOCK_PX = 2048

SCALES = {"tiny": 128, "full": 2048}
"""Edge of the block that is rounded, pixels."""


def sent_pixels(tile_px: int, overlap: float) -> float:
    """Pixels that travel for each tile of a block: those of the block and its halo, over its tiles."""
    window = ground.block_of(BLOCK_PX).window
    outer = read_window(window, tile_px, overlap)
    return outer.height * outer.width / len(ground.origins(window, tile_px, overlap))


def reckon(tiles_s: float, tile_px: int, overlap: float) -> dict[str, dict[str, Any]]:
    """Of each form: bytes a pixel, GB/s at ``tiles_s``, and how many tiles/s each link carries of it."""
    a_tile = sent_pixels(tile_px, overlap)
    return {
        form: {
            "bytes_a_pixel": size,
            "gb_s": round(tiles_s * a_tile * size / 1e9, 3),
            "tiles_s_by_link": {
                link: round(1e9 * carried / (size * a_tile)) for link, carried in LINKS.items()
            },
        }
        for form, size in FORMS.items()
    }


def measure(size_px: int) -> dict[str, float]:
    """Mpixel/s of one core that rounds features, and that makes them."""
    bands = ground.bands(size_px, halo_px=HALO_PX)
    stack = build_stack(bands, pca=ground.PCA)
    features = np.ascontiguousarray(stack.values, np.float32)
    standard = ([0.3] * len(CHANNELS), [0.2] * len(CHANNELS))
    pixels = features[0].size / 1e6
    return {
        "rounding_mpixel_s": float(f"{pixels / seconds(lambda: narrow(features, standard)):.4g}"),
        "features_mpixel_s": float(f"{pixels / seconds(lambda: build_stack(bands, pca=ground.PCA)):.4g}"),
    }


def told(forms: Mapping[str, Mapping[str, Any]], measured: Mapping[str, float], tiles_s: float) -> str:
    """All of it in lines of text."""
    lines = [f"at {tiles_s:,.0f} tiles/s:"]
    for form, row in forms.items():
        links = ", ".join(f"{rate:,} over {link}" for link, rate in row["tiles_s_by_link"].items())
        lines.append(
            f"  {form}: {row['bytes_a_pixel']} bytes a pixel, {row['gb_s']:.2f} GB/s; at most {links}"
        )
    lines.append(
        f"a core rounds {measured['rounding_mpixel_s']:g} Mpixel/s and makes features of "
        f"{measured['features_mpixel_s']:g}"
    )
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Reckon, measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--tiles-s", type=positive, default=2500.0, help="What the network is to be fed.")
    parser.add_argument("--overlap", type=share, default=0.5)
    parser.add_argument("--out", type=Path, default=RESULTS / "wire.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    forms = reckon(given.tiles_s, 256, given.overlap)
    measured = measure(SCALES[given.scale])
    print(told(forms, measured, given.tiles_s))
    sizes = {"scale": given.scale, "tile_px": 256, "overlap": given.overlap, "tiles_s": given.tiles_s}
    results = {"forms": forms, "measured": measured, "links_gb_s": LINKS}
    method = "bytes counted, links at most; one core, made-up bands, fastest of several runs"
    record.append(
        given.out,
        record.line("wire", method=method, sizes=sizes, results=results, packages=("numpy", "numba")),
    )


if __name__ == "__main__":
    main()
