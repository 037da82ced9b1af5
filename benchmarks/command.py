"""What the benchmarks' commands have in common: bad input ends in one line on stderr, and exit code 2."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

from cryoscale.errors import CryoscaleError, ExtraError, InputError

if TYPE_CHECKING:
    from cryoscale.models.protocol import PredictsTiles

P = ParamSpec("P")
R = TypeVar("R")


def command(main: Callable[P, R]) -> Callable[P, R]:
    """A benchmark's ``main``, whose errors made for people are one line and their own exit code."""

    @wraps(main)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except CryoscaleError as error:
            _fail(str(error), error.exit_code)

    return told


class Parser(argparse.ArgumentParser):
    """One whose complaints are a line as well, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """End with what cannot be used."""
        _fail(f"{message}; --help shows what can be given", 2)


def at_least(least: int) -> Callable[[str], int]:
    """Reads a whole number that is not below ``least``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise _unfit(text, f"a whole number from {least} on")
        return value

    return read


count = at_least(1)
"""Reads how many, or how many pixels."""


def share(text: str) -> float:
    """Reads an overlap, a share in [0, 1)."""
    value = _number(text)
    if not 0 <= value < 1:
        raise _unfit(text, "a share from 0 on and below 1")
    return value


def positive(text: str) -> float:
    """Reads a rate or a duration."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise _unfit(text, "a number above 0")
    return value


def require_extra(extra: str, *libraries: str) -> None:
    """Refuse to go on without libraries that are imported in the middle.

    Raises:
        ExtraError: one of them is not installed.
    """
    absent = [name for name in libraries if find_spec(name) is None]
    if absent:
        given = f"an installation without {', '.join(absent)}"
        raise ExtraError(given, f"the extra {extra}", f"pip install 'cryoscale[{extra}]'")


def require_tiles(predictor: PredictsTiles, *edges_px: int) -> None:
    """Refuse tiles that a model cannot take, before they are made.

    Raises:
        InputError: an edge that is no multiple of what the model needs.
    """
    for edge_px in edges_px:
        if edge_px % predictor.tile_multiple:
            given, expected = f"tiles of {edge_px} px", f"multiples of {predictor.tile_multiple}"
            raise InputError(given, expected, "choose another tile size")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _unfit(text: str, expected: str) -> argparse.ArgumentTypeError:
    # an InputError is a ValueError, of which argparse would keep nothing but the function's name
    return argparse.ArgumentTypeError(str(InputError(repr(text), expected, "correct it")))


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"benchmarks: {' '.join(message.split())}\n")
    sys.exit(code)
