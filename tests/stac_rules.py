"""What the STAC extensions of an archive demand of a document, as JSON Schemas for pystac's validator.

The official schemas lie on the network, which tests have none of. These are written anew from the text of
each extension (its README, under https://github.com/stac-extensions), and are tighter.
"""

from __future__ import annotations

from typing import Any

from pystac.validation.stac_validator import JsonSchemaSTACValidator

from cryoscale.archive.described import FILE, MLM, PROJECTION, RASTER, TABLE, VERSION

Schema = dict[str, Any]
_NUMBER, _TEXT, _WHOLE = (
    {"type": "number"},
    {"type": "string", "minLength": 1},
    {"type": "integer", "minimum": 0},
)
_TYPES = [
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "other",
]


def validator() -> JsonSchemaSTACValidator:
    """pystac's, with these rules at the extensions' addresses."""
    found = JsonSchemaSTACValidator()
    for uri, rules in _rules().items():
        has = {"stac_extensions": {"type": "array", "contains": {"const": uri}}}
        found.schema_cache[uri] = {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$id": uri,
            "allOf": [{"required": ["stac_extensions"], "properties": has}, rules],
        }
    return found


def _rules() -> dict[str, Schema]:
    return {
        PROJECTION: _properties(
            {
                "proj:code": {"type": "string", "pattern": "^EPSG:[0-9]+$"},
                "proj:bbox": _numbers(4),
                "proj:shape": {"type": "array", "items": _WHOLE, "minItems": 2, "maxItems": 2},
                "proj:transform": _numbers(6),
            }
        ),
        RASTER: _assets({"raster:bands": {"type": "array", "minItems": 1, "items": _band()}}),
        TABLE: _properties(
            {
                "table:columns": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "required": ["name"],
                        "properties": {"name": _TEXT, "type": _TEXT, "description": _TEXT},
                        "additionalProperties": False,
                    },
                },
                "table:row_count": _WHOLE,
                "table:primary_geometry": _TEXT,
            }
        ),
        FILE: _assets(
            {"file:size": _WHOLE, "file:checksum": {"type": "string", "pattern": "^1220[0-9a-f]{64}$"}}
        ),
        VERSION: _properties({"version": _TEXT, "deprecated": {"type": "boolean"}}),
        MLM: _model(),
    }


def _band() -> Schema:
    return {
        "required": ["data_type", "spatial_resolution"],
        "properties": {
            "data_type": {"enum": _TYPES},
            "sampling": {"enum": ["area", "point"]},
            "spatial_resolution": _NUMBER,
            "nodata": _NUMBER,
            "scale": _NUMBER,
            "offset": _NUMBER,
        },
    }


def _model() -> Schema:
    structure = {
        "required": ["shape", "dim_order", "data_type"],
        "properties": {
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
            "dim_order": {"type": "array", "uniqueItems": True, "items": _TEXT},
            "data_type": {"enum": _TYPES},
        },
    }
    classes = {
        "required": ["value", "name"],
        "properties": {"value": _WHOLE, "name": {"type": "string", "pattern": "^[0-9A-Za-z_-]+$"}},
    }
    has_bands = {"properties": {"dim_order": {"contains": {"const": "bands"}}}}
    given = {
        "required": ["name", "bands", "input"],
        "properties": {"input": {"allOf": [structure, has_bands]}},
    }
    taken = {
        "required": ["name", "tasks", "result"],
        "properties": {"result": structure, "classification:classes": {"type": "array", "items": classes}},
    }
    properties = _properties(
        {
            "mlm:name": {"type": "string", "pattern": "^[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]$"},
            "mlm:architecture": _TEXT,
            "mlm:tasks": {"type": "array", "items": {"enum": ["semantic-segmentation"]}},
            "mlm:input": {"type": "array", "items": given},
            "mlm:output": {"type": "array", "items": taken},
            # what inputs name has to be described as bands of the item
            "bands": {"type": "array", "minItems": 1, "items": {"required": ["name"]}},
        }
    )
    role = {
        "required": ["roles", "mlm:artifact_type"],
        "properties": {"roles": {"contains": {"const": "mlm:model"}}},
    }
    return {
        "allOf": [properties, {"properties": {"assets": {"minProperties": 1, "additionalProperties": role}}}]
    }


def _properties(rules: Schema) -> Schema:
    return {"properties": {"properties": {"required": sorted(rules), "properties": rules}}}


def _assets(rules: Schema) -> Schema:
    """Rules for fields of assets, at least one of which has at least one of them."""
    has = {"anyOf": [{"required": [name]} for name in rules]}
    some = {"not": {"additionalProperties": {"not": has}}}
    return {"properties": {"assets": {"allOf": [{"additionalProperties": {"properties": rules}}, some]}}}


def _numbers(count: int) -> Schema:
    return {"type": "array", "items": _NUMBER, "minItems": count, "maxItems": count}
