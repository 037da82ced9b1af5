from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cryoscale.write import columns
from cryoscale.write.carried import CARRIED

# the columns of the RGI 7's glacier product, https://www.glims.org/rgi_user_guide/products/glacier_product.html
RGI7 = [
    "rgi_id", "o1region", "o2region", "glims_id", "anlys_id", "subm_id", "src_date", "cenlon", "cenlat",
    "utm_zone", "area_km2", "primeclass", "conn_lvl", "surge_type", "term_type", "glac_name", "is_rgi6",
    "termlon", "termlat", "zmin_m", "zmax_m", "zmed_m", "zmean_m", "slope_deg", "aspect_deg", "aspect_sec",
    "dem_source", "lmax_m",
]  # fmt: skip


def names() -> list[str]:
    return [column.name for column in columns.COLUMNS]


def test_every_column_of_the_rgi_is_there_in_its_order() -> None:
    assert [name for name in names() if name in RGI7 and not name.startswith("src_date_")] == RGI7
    assert len(set(names())) == len(names())


def test_every_column_of_the_contract_is_there(shared_data: Path) -> None:
    contract = shared_data.parent / "inventory.md"
    if not contract.is_file():
        pytest.skip(f"the contract is not there ({contract})")
    text = contract.read_text(encoding="utf-8")
    record = re.search(r"polygon with holes\): (.*?)\.", text, re.DOTALL)
    ours = re.search(r"Ours in addition: (.*?)\.", text, re.DOTALL)
    assert record
    assert ours
    assert set(record[1].replace("\n", " ").split(", ")) <= set(names())
    assert set(re.findall(r"\w+_(?:km2|fraction)\b", ours[1])) <= set(names())
    assert {"confidence", "snow_fraction", "model", "run_id", "src_date_first", "src_date_last"} <= set(
        names()
    )


def test_every_column_is_described() -> None:
    for name, told in columns.metadata().items():
        assert set(told) == {"long_name", "description", "datatype", "units", "source"}
        assert told["long_name"], name
        assert told["description"].endswith("."), name
        assert told["datatype"] in {"str", "int", "float", "bool", "date"}, name
        for ending, units in {"_m": "m", "_km2": "km2", "_deg": "degrees", "lon": "degrees"}.items():
            if name.endswith(ending):
                assert told["units"] == units, name


def test_a_table_has_all_columns_in_their_types_and_what_is_not_given_is_empty() -> None:
    given = {"utm_zone": np.array([32, 33]), "is_part": [False, True], "lmax_m": [1200, None], "model": "m"}
    table = columns.table(given, 2)
    assert list(table.columns) == names()
    assert table.dtypes.astype(str).to_dict() == {c.name: c.dtype for c in columns.COLUMNS}
    assert table["lmax_m"].isna().tolist() == [False, True]
    assert table["model"].tolist() == ["m", "m"]
    empty = [c.name for c in columns.COLUMNS if table[c.name].isna().all()]
    assert set(empty) == set(names()) - set(given)


def test_a_column_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no column of an inventory: length"):
        columns.table({"length": 3.0}, 1)


def test_what_is_carried_over_is_what_no_map_can_know() -> None:
    assert set(CARRIED) == {
        "rgi_id", "o1region", "o2region", "glims_id", "anlys_id", "subm_id", "primeclass", "conn_lvl",
        "surge_type", "term_type", "glac_name", "is_rgi6",
    }  # fmt: skip
