"""The fault matrix: what was caused, how often, what came of it and what was lost; printed after them."""

from __future__ import annotations

from typing import Any


class Matrix:
    """A plugin of pytest that the tests fill."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, str, str]] = []

    def add(self, fault: str, times: int, outcome: str, lost: int | str) -> None:
        self.lines.append((fault, times, outcome, str(lost)))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        header = ("fault", "times", "what happened", "pixels lost")
        rows = [header, *((a, str(b), c, d) for a, b, c, d in self.lines)]
        widths = [max(len(row[n]) for row in rows) for n in range(4)]
        terminalreporter.section("fault matrix")
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())
