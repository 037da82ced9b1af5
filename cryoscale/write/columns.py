"""The columns of an inventory: the one place that says how each is called, stored, measured and described.

Names, units and meanings are those of the RGI 7 where it has the column
(https://www.glims.org/rgi_user_guide/products/glacier_product.html). What nothing has measured is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Source = Literal["map", "elevation model", "evidence", "corrections", "RGI", "map or RGI", "run"]

_TEXT, _WHOLE, _REAL, _DATE = "string", "Int32", "float64", "datetime64[ms]"
_DATATYPES = {_TEXT: "str", _WHOLE: "int", "int16": "int", "Int64": "int", _REAL: "float", "bool": "bool"}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: as in the files.
        dtype: as pandas names it; text and whole numbers that may be empty have a type that allows it.
        units: empty where there are none.
        source: what its values are taken from.
        long_name: for people, a few words.
        description: for people, a sentence or two.
    """

    name: str
    dtype: str
    units: str
    source: Source
    long_name: str
    description: str

    def metadata(self) -> dict[str, str]:
        """What the RGI's ``attributes_metadata.json`` says of a column."""
        return {
            "long_name": self.long_name,
            "description": self.description,
            "datatype": _DATATYPES.get(self.dtype, "date"),
            "units": self.units,
            "source": self.source,
        }


_MATCH = "Of the RGI glacier that has most of its area in common with this outline."

COLUMNS: tuple[Column, ...] = (
    Column(
        "glac_id",
        _TEXT,
        "",
        "map",
        "Outline identifier",
        "Longitude and latitude of the representative point in thousandths of a degree, with a number where "
        "several outlines share it.",
    ),
    Column(
        "complex_id", _TEXT, "", "map", "Complex identifier", "Of the connected ice that it is a part of."
    ),
    Column("rgi_id", _TEXT, "", "RGI", "RGI identifier", _MATCH),
    Column("o1region", _TEXT, "", "RGI", "First order region", _MATCH),
    Column("o2region", _TEXT, "", "RGI", "Second order region", _MATCH),
    Column("glims_id", _TEXT, "", "RGI", "GLIMS identifier", _MATCH),
    Column("anlys_id", _WHOLE, "", "RGI", "GLIMS analysis identifier", _MATCH),
    Column("subm_id", _WHOLE, "", "RGI", "GLIMS submission identifier", _MATCH),
    Column(
        "src_date",
        _DATE,
        "date",
        "map",
        "Outline source date",
        "Date of the image under the outline; where several, their median weighted by area.",
    ),
    Column("src_date_first", _DATE, "date", "map", "First source date", "Of the images under the outline."),
    Column("src_date_last", _DATE, "date", "map", "Last source date", "Of the images under the outline."),
    Column(
        "cenlon",
        _REAL,
        "degrees",
        "map",
        "Longitude of the representative point",
        "Of a point inside the outline.",
    ),
    Column(
        "cenlat",
        _REAL,
        "degrees",
        "map",
        "Latitude of the representative point",
        "Of a point inside the outline.",
    ),
    Column(
        "utm_zone",
        "int16",
        "",
        "map",
        "UTM zone",
        "Zone of six degrees in which the representative point lies; no exception for Norway and Svalbard.",
    ),
    Column("area_km2", _REAL, "km2", "map", "Area", "On the WGS 84 ellipsoid, holes taken off."),
    Column("primeclass", _WHOLE, "", "RGI", "Primary classification", f"WGMS's code. {_MATCH}"),
    Column("conn_lvl", _WHOLE, "", "RGI", "Connectivity level", f"To the Greenland ice sheet. {_MATCH}"),
    Column(
        "surge_type",
        _WHOLE,
        "",
        "RGI",
        "Evidence for surging",
        f"0 none, 1 possible, 2 probable, 3 observed, 9 not assigned. {_MATCH}",
    ),
    Column(
        "term_type",
        _WHOLE,
        "",
        "map or RGI",
        "Terminus type",
        "0 land, 1 sea, 2 lake, 3 ice shelf, 9 not assigned. By the water along at least a tenth of the "
        "outline around its lowest point; where the map cannot say, and for ice shelves, that of the RGI "
        "glacier that has most of its area in common with this outline.",
    ),
    Column("glac_name", _TEXT, "", "RGI", "Glacier name", _MATCH),
    Column(
        "is_rgi6",
        _WHOLE,
        "",
        "RGI",
        "Same as the outline of RGI 6.0",
        f"Whether the RGI's outline is (1) or is not (0). {_MATCH}",
    ),
    Column(
        "termlon",
        _REAL,
        "degrees",
        "elevation model",
        "Terminus longitude",
        "Of the lowest point of the outer ring.",
    ),
    Column(
        "termlat",
        _REAL,
        "degrees",
        "elevation model",
        "Terminus latitude",
        "Of the lowest point of the outer ring.",
    ),
    Column(
        "zmin_m",
        _REAL,
        "m",
        "elevation model",
        "Minimum elevation",
        "Of the cells of 40 m that are at least half covered by the outline.",
    ),
    Column(
        "zmax_m",
        _REAL,
        "m",
        "elevation model",
        "Maximum elevation",
        "Of the cells of 40 m that are at least half covered by the outline.",
    ),
    Column("zmed_m", _REAL, "m", "elevation model", "Median elevation", "Weighted by area."),
    Column("zmean_m", _REAL, "m", "elevation model", "Mean elevation", "Weighted by area."),
    Column(
        "slope_deg",
        _REAL,
        "degrees",
        "elevation model",
        "Mean slope",
        "Mean over the area of the slope of each cell.",
    ),
    Column(
        "aspect_deg",
        _REAL,
        "degrees",
        "elevation model",
        "Aspect",
        "Direction of the mean of the unit vectors down the slope, clockwise from true north; empty where "
        "no direction prevails.",
    ),
    Column(
        "aspect_sec",
        _WHOLE,
        "",
        "elevation model",
        "Aspect sector",
        "1 north, 2 north-east ... 8 north-west, 9 where no direction prevails.",
    ),
    Column(
        "dem_source",
        _TEXT,
        "",
        "run",
        "Elevation model",
        "From which elevations, slope, aspect, terminus and length were taken.",
    ),
    Column(
        "lmax_m",
        _WHOLE,
        "m",
        "elevation model",
        "Maximum length",
        "Length on the map of the main centre line (Kienholz et al. 2014), from head to terminus.",
    ),
    Column(
        "dem_void_fraction",
        _REAL,
        "",
        "elevation model",
        "Share without elevation",
        "Share of the area over which the elevation model has no data; the other columns leave it out.",
    ),
    Column(
        "clean_area_km2", _REAL, "km2", "map", "Area of clean ice", "Of the area, by the share of pixels."
    ),
    Column(
        "debris_area_km2",
        _REAL,
        "km2",
        "map",
        "Area of debris-covered ice",
        "Of the area, by the share of pixels.",
    ),
    Column(
        "debris_fraction",
        _REAL,
        "",
        "map",
        "Share under debris",
        "Share of debris-covered pixels among those of ice, 0-1.",
    ),
    Column(
        "area_low_km2",
        _REAL,
        "km2",
        "map",
        "Lower bound of the area",
        "Of an interval of 90 % for the ice, divides taken as given, from the probability of ice around its "
        "edge; empty where the map states no doubt.",
    ),
    Column(
        "area_high_km2",
        _REAL,
        "km2",
        "map",
        "Upper bound of the area",
        "Of an interval of 90 % for the ice, divides taken as given, from the probability of ice around its "
        "edge; empty where the map states no doubt.",
    ),
    Column(
        "confidence",
        _REAL,
        "",
        "map",
        "Mean confidence",
        "Of the ice pixels, 0-1, those left out that were corrected by hand; empty where the map has none.",
    ),
    Column(
        "corrected_fraction",
        _REAL,
        "",
        "corrections",
        "Share corrected by hand",
        "Of the outline's area, 0-1, what lies in polygons that people gave a class to; where they only took "
        "ice off, nothing is left of it in the outline.",
    ),
    Column(
        "snow_fraction",
        _REAL,
        "",
        "evidence",
        "Share under snow",
        "Share of the outline that snow or firn covered in its image, 0-1: near-infrared reflectance, "
        "normalised to level ground, above 0.4; empty where it was not told.",
    ),
    Column(
        "snow_persistence",
        _REAL,
        "",
        "evidence",
        "Persistence of snow and ice",
        "Mean share of the season's clear dates on which mapped clean ice was snow or ice, 0-1; of "
        "one date it tells nothing; empty where hardly any of the outline is clean.",
    ),
    Column(
        "clear_dates",
        _WHOLE,
        "",
        "evidence",
        "Clear dates",
        "Median number of dates with a clear look, over which persistence was counted.",
    ),
    Column(
        "ndsi",
        _REAL,
        "",
        "evidence",
        "Mean NDSI",
        "Normalised difference snow index of the image, where it is clean ice.",
    ),
    Column("velocity_m_yr", _REAL, "m yr-1", "evidence", "Median surface speed", "Of the velocity mosaic."),
    Column(
        "coherence",
        _REAL,
        "",
        "evidence",
        "Median coherence",
        "Of the radar pair, 0-1: ice decorrelates, the ground under a snow patch does not.",
    ),
    Column(
        "seasonal_snow",
        _TEXT,
        "",
        "evidence",
        "Looks like seasonal snow",
        "no, doubtful or likely; empty where none of persistence, speed and coherence is known. Outlines are "
        "flagged, none is left out.",
    ),
    Column(
        "snow_evidence",
        _TEXT,
        "",
        "evidence",
        "Evidence for and against snow",
        "The tests that spoke for snow and for ice, with what was measured, and those that lacked it.",
    ),
    Column(
        "divide_source",
        _TEXT,
        "",
        "run",
        "Source of the divides",
        "rgi: carried forward from the RGI; dem: watersheds of the elevation model; none: there was neither, "
        "or none were asked for, and connected ice was left whole.",
    ),
    Column(
        "is_part",
        "bool",
        "",
        "map",
        "Is a part",
        "Whether it is one part of ice that was severed along a straight line, since it was too large.",
    ),
    Column("year", "Int64", "", "run", "Year", "The year mapped."),
    Column("model", _TEXT, "", "run", "Model", "Name of the model that mapped it."),
    Column("run_id", _TEXT, "", "run", "Run", "Identifier of the run that mapped it."),
)
"""In the order of the files, those of the RGI first."""

TOLD: tuple[Column, ...] = tuple(
    column
    for column in COLUMNS
    if column.source in ("elevation model", "evidence", "corrections", "RGI", "map or RGI")
    or column.name == "dem_source"
)
"""Those that neither the map nor the run alone can fill."""


def metadata() -> dict[str, dict[str, str]]:
    """Every column by name, as ``attributes_metadata.json`` has them."""
    return {column.name: column.metadata() for column in COLUMNS}


def table(columns: Mapping[str, object], rows: int) -> pd.DataFrame:
    """A table of all columns in their order and types; one that is not given is empty.

    Args:
        columns: values or one value for all, by name; another name than those of :data:`COLUMNS` fails.
        rows: how many the table has.
    """
    unknown = columns.keys() - {column.name for column in COLUMNS}
    if unknown:
        raise ValueError(f"no column of an inventory: {', '.join(sorted(unknown))}")
    index = range(rows)
    return pd.DataFrame(
        {c.name: pd.Series(columns.get(c.name), index, dtype=c.dtype) for c in COLUMNS}, index=index
    )
