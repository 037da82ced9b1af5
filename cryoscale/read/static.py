"""A folder of static STAC JSON: its items, with addresses that can be opened from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pystac import Item

from cryoscale.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator


def folder_items(folder: Path) -> list[Item]:
    """Every item in ``folder`` and below, whether or not a catalogue links it; relative hrefs made absolute.

    Raises:
        SourceError: if a file is not JSON, an item is not STAC, or there is no item at all.
    """
    found = [item for path in sorted(folder.rglob("*.json")) for item in _items_of(path)]
    if not found:
        raise SourceError(f"catalogue {folder}", "at least one STAC item (*.json)", "check the path")
    return found


def _items_of(path: Path) -> Iterator[Item]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"{path} ({error})", "STAC JSON", "mend or remove the file") from error
    kind = document.get("type") if isinstance(document, dict) else None
    features = document.get("features", []) if kind == "FeatureCollection" else [document]
    if not isinstance(features, list):
        told = json.dumps(features)[:80]
        raise SourceError(f"{path} (features is {told})", "a list of features", "mend or remove the file")
    for feature in features if kind in ("Feature", "FeatureCollection") else []:
        if not isinstance(feature, dict) or "stac_version" not in feature:
            continue  # GeoJSON that happens to lie here
        yield item_at(feature, path)


def item_at(feature: dict[str, Any], path: Path) -> Item:
    """The item of a JSON document that lies at ``path``.

    Raises:
        SourceError: if it is not a STAC item.
    """
    try:
        item: Item = Item.from_dict(feature, href=str(path.resolve()))
    except Exception as error:  # pystac raises many kinds for documents that are not STAC
        cause = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path} ({cause})", "a STAC item", "mend or remove the file") from error
    return item
