"""Tables that tests fill and that are printed after them, also where the tests are spread over processes."""

from __future__ import annotations

from typing import Any

import pytest


class Table:
    """A plugin of pytest: rows under a header; those of pytest-xdist's workers come together at the end."""

    def __init__(self, title: str, *header: str) -> None:
        self.title, self.header = title, header
        self.rows: list[tuple[str, ...]] = []

    def add(self, *cells: object) -> None:
        """One row."""
        assert len(cells) == len(self.header)
        self.rows.append(tuple(map(str, cells)))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """What a worker hands to the process that reports."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[self.title] = self.rows

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What that process gets from a worker."""
        self.rows += map(tuple, getattr(node, "workeroutput", {}).get(self.title, []))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table, if it holds anything."""
        if not self.rows:
            return
        rows = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        terminalreporter.section(self.title)
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())
