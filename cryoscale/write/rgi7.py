"""The RGI 7 in tables: its regions, the columns of its products, and what it writes where nothing is known.

Columns, codes and their order are those of its files
(https://www.glims.org/rgi_user_guide/products/glacier_product.html); where a column means something else in
folders that only follow it, that is said here.
"""

from __future__ import annotations

from collections.abc import Mapping

REGIONS: Mapping[str, str] = {
    "01": "Alaska",
    "02": "Western Canada and USA",
    "03": "Arctic Canada, North",
    "04": "Arctic Canada, South",
    "05": "Greenland Periphery",
    "06": "Iceland",
    "07": "Svalbard and Jan Mayen",
    "08": "Scandinavia",
    "09": "Russian Arctic",
    "10": "Asia, North",
    "11": "Central Europe",
    "12": "Caucasus and Middle East",
    "13": "Asia, Central",
    "14": "Asia, South West",
    "15": "Asia, South East",
    "16": "Low Latitudes",
    "17": "Southern Andes",
    "18": "New Zealand",
    "19": "Subantarctic and Antarctic Islands",
    "20": "Antarctic Mainland",
}
"""First-order regions of the RGI 7 (https://www.glims.org/rgi_user_guide/02_regions_definition.html)."""

GLACIER_COLUMNS: Mapping[str, str] = {
    "rgi_id": "string",
    "o1region": "string",
    "o2region": "string",
    "glims_id": "string",
    "anlys_id": "Int64",
    "subm_id": "Int64",
    "src_date": "string",
    "cenlon": "float64",
    "cenlat": "float64",
    "utm_zone": "Int64",
    "area_km2": "float64",
    "primeclass": "Int64",
    "conn_lvl": "Int64",
    "surge_type": "Int64",
    "term_type": "Int64",
    "glac_name": "string",
    "is_rgi6": "Int64",
    "termlon": "float64",
    "termlat": "float64",
    "zmin_m": "float64",
    "zmax_m": "float64",
    "zmed_m": "float64",
    "zmean_m": "float64",
    "slope_deg": "float64",
    "aspect_deg": "float64",
    "aspect_sec": "Int64",
    "dem_source": "string",
    "lmax_m": "Int64",
}
"""Columns of the glacier product in their order, in the types of which GDAL makes the widths of the RGI."""

COMPLEX_COLUMNS = ("rgi_id", "o1region", "o2region", "cenlon", "cenlat", "utm_zone", "area_km2")
INTERSECT_COLUMNS = ("rgi_id", "rgi_g_id_1", "rgi_g_id_2", "length_m")

NOT_ASSIGNED: Mapping[str, int] = {
    "primeclass": 0,
    "conn_lvl": 0,
    "surge_type": 9,
    "term_type": 9,
    "aspect_sec": 9,
}
"""What the RGI writes where nothing is known."""

OWN: Mapping[str, Mapping[str, str]] = {
    "rgi_id": {
        "long_name": "Identifier",
        "description": "That of the RGI's glacier which this outline continues, or one of this inventory's "
        "own, which begins with CRY and is none of the RGI's.",
    },
    "o1region": {
        "description": "The code of the first-order region; 00 where it is not known.",
    },
    "o2region": {
        "description": "The code of the second-order region; it ends with 00 where it is not known.",
    },
    "anlys_id": {"description": "Always 0: the outline is not in GLIMS.", "source": "run"},
    "subm_id": {"description": "Always 0, the row of submission_info.csv.", "source": "run"},
    "is_rgi6": {"description": "Always 0: the outline is none of the RGI 6.0.", "source": "run"},
    "rgi_g_id_1": {"long_name": "Identifier of glacier 1", "description": "On one side of the line."},
    "rgi_g_id_2": {"long_name": "Identifier of glacier 2", "description": "On its other side."},
    "length_m": {"long_name": "Length", "description": "Of the line.", "units": "m", "datatype": "float"},
}
"""What means something else here than in the inventory, or is not among its columns."""

SUBMISSION: Mapping[str, tuple[str, str, str]] = {
    "subm_id": ("int", "", "Always 0: nothing of this was submitted to GLIMS."),
    "n_outlines": ("int", "", "Number of outlines."),
    "area_km2": ("float", "km2", "Total area of the outlines."),
    "anlys_time": ("str", "date", "When the run was begun."),
    "release_dt": ("str", "date", "Empty: not released."),
    "proc_desc": ("str", "", "How the outlines were made."),
    "chief_affl": ("str", "", "Empty, for whoever publishes it."),
    "submitters": ("str", "", "Empty, for whoever publishes it."),
    "analysts": ("str", "", "Empty, for whoever publishes it."),
    "rc_id": ("int", "", "Empty: no regional centre."),
}
"""Columns of ``submission_info.csv``: type, unit and what they hold here."""
