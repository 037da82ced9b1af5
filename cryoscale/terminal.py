"""Rich's console, which may go before the work does."""

from __future__ import annotations

import os

import rich.console


class Terminal(rich.console.Console):
    """What is said after nobody reads any more is lost, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Called then; Rich's own ends the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
