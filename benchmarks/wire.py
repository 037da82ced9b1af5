"""What each form costs in which features can travel to an actor, and how many tiles/s it lets through.

Bytes are counted, those of the halo of a block of 2048 pixels among them; links are named with what they
carry at most; what rounding and packing cost the sender is measured here, beside what making the features
costs it, and what making them costs the device (``--device``): its rate, and the steps and bytes of a strip,
from which follows what a GPU would take at least where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import RESULTS
from benchmarks.command import Parser, command, positive, share
from cryoscale.bench import ground, record
from cryoscale.bench.clock import seconds
from cryoscale.features.channels import CHANNELS
from cryoscale.features.packing import HALO_PX as PACKED_HALO_PX
from cryoscale.features.packing import bytes_a_pixel
from cryoscale.features.stack import HALO_PX, build_stack, pack_inputs
from cryoscale.infer.derive import Deriver, strips
from cryoscale.infer.tiles import read_window
from cryoscale.infer.wire import BYTES_A_CHANNEL, INTAKE_BYTES_S, narrow

FORMS = {
    "float32, 30 channels": 4 * len(CHANNELS),
    "bf16, standardised, 30 channels": BYTES_A_CHANNEL * len(CHANNELS),
    "numbers of 17 inputs, 30 channels made of them there": bytes_a_pixel(),
}
"""Bytes a pixel."""

LINKS = {
    "an actor's process": INTAKE_BYTES_S / 1e9,
    "25 Gbit/s between machines": 3.1,
    "100 Gbit/s": 12.5,
    "PCI Express 5 x 16": 50.0,
}
"""1e9 bytes a second at most; PCI Express as copies from page-locked memory reach it."""

GPU_BYTES_S = 4.3e12
"""What an H200 copies in a second, of the roofline that the design starts from."""

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


def measure(size_px: int, device: torch.device) -> dict[str, float]:
    """Mpixel/s of one core that rounds features, packs inputs and makes features; and of a device's.

    Of the device also how many steps a strip takes, and what they read and write of memory, by pixel.
    """
    bands = ground.bands(size_px, halo_px=HALO_PX)
    stack = build_stack(bands, pca=ground.PCA)
    features = np.ascontiguousarray(stack.values, np.float32)
    standard = ([0.3] * len(CHANNELS), [0.2] * len(CHANNELS))
    pixels = features[0].size / 1e6
    packed = pack_inputs(bands, CHANNELS, pca=ground.PCA)
    numbers = torch.from_numpy(packed.numbers.view(np.int16)).to(device)
    make = Deriver(packed.recipe, device)

    def made() -> None:
        for rows in strips(numbers.shape[1]):
            make(numbers[:, rows.start : rows.stop + 2 * PACKED_HALO_PX])
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    first = next(strips(numbers.shape[1]))
    with Steps() as counted:
        strip = make(numbers[:, : first.stop + 2 * PACKED_HALO_PX])
    taken = {
        "rounding_mpixel_s": pixels / seconds(lambda: narrow(features, standard)),
        "packing_mpixel_s": pixels / seconds(lambda: pack_inputs(bands, CHANNELS, pca=ground.PCA)),
        "features_mpixel_s": pixels / seconds(lambda: build_stack(bands, pca=ground.PCA)),
        "making_mpixel_s": size_px**2 / 1e6 / seconds(made),
        "making_steps": counted.steps,
        "making_bytes_px": counted.bytes / strip[0].numel(),
    }
    return {name: float(f"{value:.4g}") for name, value in taken.items()}


class Steps(TorchDispatchMode):
    """Counts torch's steps that touch memory, and what they read and write of it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = self.bytes = 0

    def __torch_dispatch__(self, step: Any, types: Any, given: Any = (), options: Any = None) -> Any:
        """Run a step; those that only look at a tensor in another way are not counted."""
        made = step(*given, **(options or {}))
        if not step.is_view and "empty" not in step.name():
            tensors = [one for one in tree_leaves((given, made)) if isinstance(one, torch.Tensor)]
            self.steps += 1
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return made


def told(
    forms: Mapping[str, Mapping[str, Any]], measured: Mapping[str, float], tiles_s: float, device: str
) -> str:
    """All of it in lines of text."""
    lines = [f"at {tiles_s:,.0f} tiles/s:"]
    for form, row in forms.items():
        links = ", ".join(f"{rate:,} over {link}" for link, rate in row["tiles_s_by_link"].items())
        lines.append(
            f"  {form}: {row['bytes_a_pixel']} bytes a pixel, {row['gb_s']:.2f} GB/s; at most {links}"
        )
    lines.append(
        f"a core rounds {measured['rounding_mpixel_s']:g} Mpixel/s, packs {measured['packing_mpixel_s']:g} "
        f"and makes features of {measured['features_mpixel_s']:g}"
    )
    steps, moved = measured["making_steps"], measured["making_bytes_px"]
    lines.append(
        f"{device} makes channels of {measured['making_mpixel_s']:g} Mpixel/s, in {steps:g} steps a strip "
        f"that move {moved:,.0f} bytes a pixel: {1e9 * moved / GPU_BYTES_S:.2g} ns at "
        f"{GPU_BYTES_S / 1e12:g} TB/s"
    )
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Reckon, measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--tiles-s", type=positive, default=2500.0, help="What the network is to be fed.")
    parser.add_argument("--overlap", type=share, default=0.5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="What makes channels.")
    parser.add_argument("--out", type=Path, default=RESULTS / "wire.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    forms = reckon(given.tiles_s, 256, given.overlap)
    measured = measure(SCALES[given.scale], torch.device(given.device))
    print(told(forms, measured, given.tiles_s, given.device))
    sizes = {
        "scale": given.scale,
        "device": given.device,
        "tile_px": 256,
        "overlap": given.overlap,
        "tiles_s": given.tiles_s,
    }
    results = {"forms": forms, "measured": measured, "links_gb_s": LINKS}
    method = "bytes counted, links at most; one core, made-up bands, fastest of several runs"
    record.append(
        given.out,
        record.line(
            "wire", method=method, sizes=sizes, results=results, packages=("numpy", "numba", "torch")
        ),
    )


if __name__ == "__main__":
    main()
