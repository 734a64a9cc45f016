"""Keypoint schemas, by name. Imports numpy and yaml alone, so that all of the project may import it."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from kgdet_d2.schema.keypoint_schema import KeypointSchema
from kgdet_d2.schema.schema_file import load_schema, schema_from_description, schema_to_yaml

DEEPFASHION2 = load_schema(Path(__file__).with_name("deepfashion2.yaml"))
FLD = load_schema(Path(__file__).with_name("fld.yaml"))

_SCHEMAS: dict[str, KeypointSchema] = {}


def register_schema(schema: KeypointSchema) -> None:
    """Make a schema known by its name, for ``MODEL.KGDET.SCHEMA`` and annotation files.

    Raises:
        ValueError: another schema has the name.
    """
    if _SCHEMAS.setdefault(schema.name, schema) != schema:
        raise ValueError(f"schema {schema.name!r}: another one is registered under this name")


def register_under_a_name(schema: KeypointSchema) -> str:
    """Make a schema known by its name, or where another one has it by the name and a hash; return which."""
    if _SCHEMAS.get(schema.name, schema) != schema:
        digest = sha256(json.dumps(schema.to_dict()).encode()).hexdigest()[:8]
        schema = replace(schema, name=f"{schema.name}-{digest}")
    register_schema(schema)
    return schema.name


def get_schema(name: str) -> KeypointSchema:
    """Return the registered schema of this name.

    Raises:
        ValueError: there is none; lists the registered ones.
    """
    if name not in _SCHEMAS:
        raise ValueError(f"schema: expected one of {sorted(_SCHEMAS)}, got {name!r}")
    return _SCHEMAS[name]


register_schema(DEEPFASHION2)
register_schema(FLD)

__all__ = [
    "DEEPFASHION2",
    "FLD",
    "KeypointSchema",
    "get_schema",
    "load_schema",
    "register_schema",
    "register_under_a_name",
    "schema_from_description",
    "schema_to_yaml",
]
