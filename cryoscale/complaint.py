"""What pydantic has to say against a configuration, as the three parts of our own errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, where: str, whole: type[BaseModel]) -> tuple[str, str, str]:
    """The first of pydantic's complaints, and how many more there are, as our three parts.

    An unknown key comes before all others: what is missing is mostly what it was to be.
    """
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    more = error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"]) or "top level"
    also = f" (and {more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(first["loc"], whole))
        return f"unknown key {key!r} in {where}{also}", f"one of {known}", "remove it or correct its spelling"
    if first["type"] == "missing" and not isinstance(first["loc"][-1], int):
        return f"no key {key!r} in {where}{also}", "that key", "add it, as the README shows"
    value = repr(first.get("input"))
    value = value if len(value) < 80 else value[:77] + "..."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        key, value = (
            ".".join(str(part) for part in first["loc"][:-1]),
            f"only {first['loc'][-1]} of its values",
        )
        message = "all of them"
    return f"{key}: {value} in {where}{also}", message[:1].lower() + message[1:], "correct it"


def _known_keys(location: tuple[int | str, ...], whole: type[BaseModel]) -> list[str]:
    """The keys that are known at the place of an unknown one."""
    model: Any = whole
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(kind for kind in _models_in(annotation))
    return sorted(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]
