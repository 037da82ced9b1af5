"""What the commands have in common: their arguments, where output goes, JSON for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cryoscale.write.disk import output

__all__ = ["ConfigArgument", "JsonOption", "OutArgument", "output", "print_json"]

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")]
OutArgument = Annotated[str, typer.Argument(metavar="DIR", help="The run's output folder or URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def print_json(document: Any) -> None:
    """A document on standard output, for a program to read; what has no value is None, null there.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON has no word for.
    """
    sys.stdout.write(json.dumps(document, indent=1, default=str, allow_nan=False) + "\n")
