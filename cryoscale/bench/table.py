"""Recorded figures as tables: for the terminal, and for the README, which is made from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ("stage", "rate", "limit", "share", "beside", "times")
NOT_MEASURED = "not measured"


def text(line: Mapping[str, Any]) -> str:
    """A recorded line for the terminal: the machine, then a row for each figure."""
    rows = [HEADER, *(_row(name, figure) for name, figure in line["results"]["figures"].items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    head = _headline(line["results"]["limits"]["device"], line)
    return "\n".join([head, *(row.rstrip() for row in table)])


def markdown(lines: Sequence[Mapping[str, Any]], expected: Mapping[str, Sequence[str]]) -> str:
    """The newest line of each device, with a row for every figure that is expected of it, measured or not."""
    parts = []
    for device, names in expected.items():
        of_device = [line for line in lines if line["results"]["limits"]["device"] == device]
        figures = _figures(of_device[-1]) if of_device else {}
        parts.append(_headline(device, of_device[-1] if of_device else None))
        table = [HEADER, tuple("---" for _ in HEADER)]
        table += [_row(name, figures.get(name)) for name in names]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(parts)


def _figures(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """By name; before a run was rated from end to end, its mapping stood alone under that name."""
    figures = dict(line["results"]["figures"])
    if "end to end" in figures and "mapping" not in figures:
        figures["mapping"] = figures.pop("end to end")
    return figures


def _headline(device: str, line: Mapping[str, Any] | None) -> str:
    if line is None:
        return f"{device}: {NOT_MEASURED}"
    limits, machine = line["results"]["limits"], line["machine"]
    products = ", ".join(f"{value:g} TFLOP/s {name}" for name, value in limits["matmul_tflops"].items())
    return (
        f"{device} ({machine['cpu']}, {machine['cores']} cores, {line['when'][:10]}): copies "
        f"{limits['copy_gb_s']:g} GB/s a thread, multiplies {products} in all"
    )


def _row(name: str, figure: Mapping[str, Any] | None) -> tuple[str, ...]:
    if figure is None:
        return (name, NOT_MEASURED, "", "", "", "")
    times = figure["times_rival"]
    return (
        name,
        f"{figure['rate']:.3g} {figure['unit']}",
        f"{figure['limit']:.3g}",
        f"{100 * figure['of_limit']:.0f} %",
        figure["rival"],
        NOT_MEASURED if times is None else f"{times:.3g}",
    )
