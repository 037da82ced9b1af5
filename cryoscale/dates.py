"""The very days that a source is taken from: how a person names them, what is refused, how they are told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from cryoscale.errors import ConfigError
from cryoscale.settings import Season, SourceSpec


def _to_day(value: Any) -> date:
    """A full ISO date as the day that it is; YAML readers other than ours make a date of it themselves.

    Raises:
        ValueError: it is none, or a moment of a day.
    """
    if type(value) is date:  # a datetime is one by inheritance
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        try:
            return date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"a day that the calendar has ({error})") from None
    raise ValueError("a day such as '2018-10-15'")


Day: TypeAlias = Annotated[date, BeforeValidator(_to_day)]
"""A value of a configuration that is a day."""


def require_dates(sources: Mapping[str, SourceSpec], season: Season, years: Sequence[int]) -> None:
    """Refuse days that a run cannot be made of.

    They narrow the season and never widen it, so that what a map says of its season holds, and each day
    belongs to one year only.

    Raises:
        ConfigError: a source has a day twice, one in the season of no year, or none of a year.
    """
    for modality, source in sources.items():
        if source.dates:
            _require(f"sources.{modality}.dates", source.dates, season, years)


def _require(key: str, days: Sequence[date], season: Season, years: Sequence[int]) -> None:
    twice = [day for day, count in Counter(days).items() if count > 1]
    if twice:
        raise ConfigError(f"{key} with {spelled(twice)} more than once", "each day once", "remove the others")
    seasons = [season.days(year) for year in years]
    outside = [day for day in days if not any(first <= day <= last for first, last in seasons)]
    if outside:
        raise ConfigError(
            f"{key} with {spelled(outside)}, outside season {season.start} to {season.end} of {_all(years)}",
            f"days of {_all(f'{first} to {last}' for first, last in seasons)}",
            "correct the date, or widen season or years",
        )
    for year, (first, last) in zip(years, seasons, strict=True):
        if not any(first <= day <= last for day in days):
            raise ConfigError(
                f"{key} without a day of {year}, whose season is {first} to {last}",
                "a day of each of the run's years",
                f"add one, or leave {year} out of years",
            )


def spelled(days: Iterable[date]) -> str:
    """Days in their order, with commas between."""
    return _all(sorted(days))


def _all(words: Iterable[object]) -> str:
    return ", ".join(map(str, words))
