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
    """What the full scale came to on each device, a row for every figure that is expected, measured or not.

    Of a device the newest line's machine is shown; what that line does not hold is taken from the newest one
    of the same machine that does.
    """
    parts = []
    for device, names in expected.items():
        shown = _of_one_machine(lines, device)
        newest = {name: line for line in shown for name in _figures(line)}
        parts.append(_headline(device, shown[-1] if shown else None))
        table = [HEADER, tuple("---" for _ in HEADER)]
        for name in names:
            line = newest.get(name)
            today = line is None or line["when"][:10] == shown[-1]["when"][:10]
            title = name if line is None or today else f"{name} ({line['when'][:10]})"
            table.append(_row(title, None if line is None else _figures(line)[name]))
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(parts)


def _of_one_machine(lines: Sequence[Mapping[str, Any]], device: str) -> list[Mapping[str, Any]]:
    """Lines of the full scale on the machine that had it last, the oldest first."""
    full = [
        line
        for line in lines
        if line["results"]["limits"]["device"] == device and line["sizes"]["scale"] == "full"
    ]
    named = [tuple(line["machine"].get(key) for key in ("cpu", "gpu", "cores")) for line in full]
    return [line for line, name in zip(full, named, strict=True) if name == named[-1]]


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
    where = f"{machine['cpu']}, {machine['cores']} cores, {line['when'][:10]}"
    return (
        f"{device}, scale {line['sizes']['scale']} ({where}): copies "
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
