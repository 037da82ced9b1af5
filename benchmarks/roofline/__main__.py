"""Where the network's time goes, layer by layer, and what a device of given speed could do at best.

Each convolution takes as long as the slower of its multiplications at the device's peak and of its bytes at
the speed of its memory: input, output and weights once each, the weights shared by a batch. The sum is the
roofline with everything pointwise fused into the convolutions. That cannot be had: an scSE gate wants the
mean of a whole map before it scales it, so that the map is written, read for the gates, read and written once
more, which is what a compiler can come to at best. Beside it stands what the pointwise steps cost where each
reads and writes on its own (nearest doubling, concatenation, ReLU, gates, pooling), batch norms counted as
folded away. A second table has the network as a GPU serves it (:mod:`benchmarks.roofline.served`). Where a
device is at hand the time of each part is measured beside. The model is that of Williams et al. 2009,
https://doi.org/10.1145/1498765.1498785.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import RESULTS
from benchmarks.command import Parser, command, count, positive
from benchmarks.roofline import served, written
from benchmarks.roofline.parts import Part, Speed
from cryoscale.bench import record
from cryoscale.bench.network import SIZES


def table(parts: Mapping[str, Part], whole_ms: float | None) -> Iterator[str]:
    """The parts in lines of text."""
    total = sum(part.conv_us for part in parts.values())
    yield (
        f"{'part':<24}{'GFLOP':>8}{'MB':>8}{'FLOP/B':>8}  {'bound by':<9}{'us':>7}{'share':>7}"
        f"{'gates us':>10}{'pointwise MB':>14}{'us':>7}{'measured ms':>13}{'share':>7}"
    )
    for name, part in parts.items():
        bound = "" if not part.conv_us else "products" if 2 * part.compute_us > part.conv_us else "memory"
        intensity = part.flop / part.conv_bytes if part.conv_bytes else 0.0
        line = (
            f"{name.removeprefix('decoder.blocks.'):<24}{part.flop / 1e9:>8.2f}{part.conv_bytes / 1e6:>8.1f}"
            f"{intensity:>8.0f}  {bound:<9}{part.conv_us:>7.1f}{part.conv_us / total:>7.1%}"
            f"{part.gate_us:>10.1f}{part.pointwise_bytes / 1e6:>14.1f}{part.pointwise_us:>7.1f}"
        )
        if part.measured_ms is not None and whole_ms:
            line += f"{part.measured_ms:>13.3g}{part.measured_ms / whole_ms:>7.1%}"
        yield line


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Count, measure where a device is at hand, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SIZES), default="cryonet", help="Which network.")
    parser.add_argument("--tflops", type=positive, default=790.0, help="1e12 operations a second; an H200's.")
    parser.add_argument("--gb-s", type=positive, default=4300.0, help="1e9 bytes a second; an H200's.")
    parser.add_argument("--precision", choices=list(written.BYTES), default="bf16")
    parser.add_argument("--tile-px", type=count, help="Edge of a tile; 256, of the tiny network 64.")
    parser.add_argument(
        "--batch", type=count, help="Tiles that share the weights; 32, and measured on a CPU 1."
    )
    parser.add_argument("--no-measure", action="store_true", help="Count only.")
    parser.add_argument("--out", type=Path, default=RESULTS / "roofline.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    tile_px = given.tile_px or (64 if given.scale == "tiny" else 256)
    speed, batch = Speed(given.tflops, given.gb_s), given.batch or 32
    parts = written.count(given.scale, tile_px, given.precision, speed, batch)
    kernels = served.count(given.scale, tile_px, speed, batch)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu, whole_ms, kernels_ms = device.type == "cuda", None, None
    if not given.no_measure:
        at_once = batch if on_gpu else given.batch or 1
        measured, whole_ms = written.measure(given.scale, tile_px, given.precision, at_once, device)
        _beside(parts, measured)
        if on_gpu:
            measured, kernels_ms = served.measure(given.scale, tile_px, at_once, device)
            _beside(kernels, measured)
    found = {**written.rates(parts), "served": served.rate(kernels)}
    print("\n".join(table(parts, whole_ms)))
    gflop = sum(part.flop for part in parts.values()) / 1e9
    moved = sum(part.conv_bytes for part in parts.values()) / 1e6
    print(
        f"{gflop:.1f} GFLOP and {moved:.0f} MB a tile; at {speed.tflops:g} TFLOP/s and {speed.gb_s:g} GB/s "
        f"at most {found['fused']:,.0f} tiles/s with everything pointwise fused, "
        f"{found['compiled']:,.0f} with all but the gates, {found['unfused']:,.0f} with nothing"
    )
    print(f"measured on {device}: {_tiles_s(whole_ms)}\n\nas a GPU serves it, in bf16")
    print("\n".join(table(kernels, kernels_ms)))
    print(f"at most {found['served']:,.0f} tiles/s; measured on a GPU: {_tiles_s(kernels_ms)}")
    results = {
        "tflops": speed.tflops,
        "gb_s": speed.gb_s,
        "gflop": round(gflop, 3),
        "conv_mb": round(moved, 1),
        "tiles_a_second": {name: round(rate, 1) for name, rate in found.items()},
        "measured_on": None if whole_ms is None else device.type,
        "measured_tiles_a_second": _rate(whole_ms),
        "served_measured_tiles_a_second": _rate(kernels_ms),
        "parts": _rounded(parts),
        "served_parts": _rounded(kernels),
    }
    sizes = {"scale": given.scale, "tile_px": tile_px, "batch": batch, "precision": given.precision}
    method = (
        "convolutions counted on the meta device, each at the slower of its products and its bytes; "
        "pointwise steps at their bytes, batch norms folded; parts measured one by one, awaited, fastest of "
        "3; as it is served each kernel at the bytes that it is given and makes"
    )
    packages = ("torch", "triton")
    record.append(
        given.out, record.line("roofline", method=method, sizes=sizes, results=results, packages=packages)
    )


def _beside(parts: Mapping[str, Part], measured: Mapping[str, float]) -> None:
    for name, took in measured.items():
        parts[name].measured_ms = took


def _rate(tile_ms: float | None) -> float | None:
    return None if tile_ms is None else float(f"{1e3 / tile_ms:.4g}")


def _tiles_s(tile_ms: float | None) -> str:
    return "not measured" if tile_ms is None else f"{1e3 / tile_ms:.3g} tiles/s"


def _rounded(parts: Mapping[str, Part]) -> dict[str, dict[str, float | None]]:
    return {
        name: {key: None if value is None else float(f"{value:.4g}") for key, value in vars(part).items()}
        for name, part in parts.items()
    }


if __name__ == "__main__":
    main()
