"""The frozen catalogue as others read it, and files of others as we read them."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rustac
import stac_geoparquet.arrow
from pystac import Item
from shapely.geometry import shape

from cryoscale.errors import IntegrityError
from cryoscale.read import snapshot
from cryoscale.read.static import folder_items
from tests.integration.conftest import TinyRange

Documents = list[dict[str, Any]]


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> dict[str, list[Item]]:
    """All items recorded from the providers, by collection: a mixed lot."""
    found: dict[str, list[Item]] = {}
    for path in sorted((shared_data / "stac").glob("*.json")):
        document = json.loads(path.read_text())
        if document.get("type") == "Feature":
            item = Item.from_dict(document)
            found.setdefault(f"2018/{item.collection_id}", []).append(item)
    assert sum(map(len, found.values())) > 25
    return found


@pytest.fixture(params=["recorded", "simulated", "at odds"])
def lot(request: pytest.FixtureRequest, tiny_range: TinyRange) -> dict[str, list[Item]]:
    """Items of several collections: from providers, from the simulator, and such as fit into no column."""
    if request.param == "recorded":
        return request.getfixturevalue("recorded")  # type: ignore[no-any-return]
    items = list(folder_items(tiny_range.folder))
    found: dict[str, list[Item]] = {}
    for number, item in enumerate(items):
        if request.param == "at odds":
            item = Item.from_dict(copy.deepcopy(item.to_dict(include_self_link=False)))
            item.properties["view:azimuth"] = [number, {"deep": number}, "text"][number % 3]
        found.setdefault(f"all/{item.collection_id}", []).append(item)
    return found


def with_stac_geoparquet(path: Path) -> Documents:
    return list(stac_geoparquet.arrow.stac_table_to_items(pq.read_table(path)))


def with_rustac(path: Path) -> Documents:
    async def read() -> Any:
        return await rustac.read(str(path))

    return list(asyncio.run(read())["features"])


def with_geopandas(path: Path) -> Documents:
    import geopandas

    frame = geopandas.read_parquet(path)
    assert frame.crs.to_epsg() == 4326
    return [
        {
            "id": row["id"],
            "collection": row["collection"],
            "geometry": row["geometry"].__geo_interface__,
            "properties": {"datetime": row["datetime"].isoformat()},
            "assets": row["assets"],
        }
        for _, row in frame.iterrows()
    ]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


@pytest.mark.parametrize("read", [with_stac_geoparquet, with_rustac, with_geopandas])
def test_the_frozen_catalogue_is_a_stac_geoparquet_that_others_read(
    lot: dict[str, list[Item]], tmp_path: Path, read: Callable[[Path], Documents]
) -> None:
    path = tmp_path / "items.parquet"
    snapshot.freeze(lot, path)
    expected = {(i.collection_id, i.id): i for items in lot.values() for i in items}
    found = {(d["collection"], d["id"]): d for d in read(path)}
    assert found.keys() == expected.keys()
    for key, document in found.items():
        item = expected[key]
        assert shape(document["geometry"]).equals(shape(item.geometry))
        assert item.datetime is not None
        assert moment(document["properties"]["datetime"]) == item.datetime.astimezone(UTC)
        assets = {name: asset for name, asset in document["assets"].items() if asset is not None}
        assert assets.keys() == item.assets.keys()
        assert {name: a["href"] for name, a in assets.items()} == {
            name: a.href for name, a in item.assets.items()
        }


def test_the_frozen_catalogue_says_that_it_is_one_and_comes_back_exactly(
    lot: dict[str, list[Item]], tmp_path: Path
) -> None:
    path = tmp_path / "items.parquet"
    sha256 = snapshot.freeze(lot, path)
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"stac-geoparquet"])["version"].startswith("1.")
    assert json.loads(metadata[b"geo"])["primary_column"] == "geometry"
    back = snapshot.thaw(path)
    assert snapshot.digest(back) == sha256 == snapshot.digest(lot)
    assert not snapshot.compare(lot, back)
    by_id = {(i.collection_id, i.id): i for items in lot.values() for i in items}
    for item in snapshot.read_items(path):
        before = by_id[item.collection_id, item.id].to_dict(include_self_link=False, transform_hrefs=False)
        assert item.to_dict(include_self_link=False, transform_hrefs=False) == {**before, "links": []}


@pytest.mark.parametrize("tool", ["stac_geoparquet", "rustac"])
def test_a_file_of_another_tool_is_read_and_can_be_frozen(
    recorded: dict[str, list[Item]], tmp_path: Path, tool: str
) -> None:
    path = tmp_path / "theirs.parquet"
    items = [item for name in sorted(recorded) for item in recorded[name]]
    documents = [item.to_dict(include_self_link=False, transform_hrefs=False) for item in items]
    library: Any = stac_geoparquet.arrow if tool == "stac_geoparquet" else rustac
    if tool == "rustac":
        for document in documents:
            document["properties"].pop("proj:geometry", None)  # it cannot write where some lack it

        async def write() -> None:
            await library.write(str(path), documents)

        asyncio.run(write())
    else:
        library.to_parquet(library.parse_stac_items_to_arrow(documents), path)
    found = {item.id: item for item in snapshot.read_items(path)}
    assert found.keys() == {item.id for item in items}
    for item in items:
        theirs = found[item.id]
        assert theirs.datetime is not None
        assert item.datetime is not None
        assert abs((theirs.datetime - item.datetime).total_seconds()) < 0.001  # rustac writes milliseconds
        assert shape(theirs.geometry).equals(shape(item.geometry))
        assert {k: a.href for k, a in theirs.assets.items()} == {k: a.href for k, a in item.assets.items()}
    snapshot.freeze({"all/any": list(found.values())}, tmp_path / "ours.parquet")
    assert {i.id for i in snapshot.thaw(tmp_path / "ours.parquet")["all/any"]} == found.keys()


def test_a_catalogue_frozen_before_there_were_such_columns_still_thaws(
    recorded: dict[str, list[Item]], tmp_path: Path
) -> None:
    path = tmp_path / "items.parquet"
    sha256 = snapshot.freeze(recorded, path)
    table = pq.read_table(path)
    old = pa.table(
        {
            "source": table["cryoscale:source"],
            "collection": table["collection"],
            "id": table["id"],
            "geometry": table["geometry"],
            "stac_item": table["cryoscale:item"],
        }
    ).replace_schema_metadata(table.schema.metadata)
    pq.write_table(old, path)
    assert snapshot.digest(snapshot.thaw(path)) == sha256
    assert len(snapshot.read_items(path)) == table.num_rows
    texts = table["cryoscale:item"].to_pylist()
    for spoilt in (texts[0].replace('"id"', '"Id"'), texts[0][:-1], "[]"):
        column = pa.array([spoilt, *texts[1:]])
        changed = table.set_column(table.column_names.index("cryoscale:item"), "cryoscale:item", column)
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(IntegrityError):
            snapshot.thaw(path)
