"""The keypoint schema of a registered dataset."""

from collections.abc import Iterable
from difflib import get_close_matches

from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.schema import KeypointSchema


def schema_of_dataset(name: str) -> KeypointSchema:
    """Return the classes and landmarks that a dataset is annotated with, its metadata's ``keypoint_schema``.

    Raises:
        ValueError: no dataset is registered under this name (the message lists similar names), or it is
            registered without a schema (the message tells how to add one).
    """
    schema = _find_schema(name)
    if schema is not None:
        return schema
    if name in DatasetCatalog:
        raise ValueError(
            f"dataset {name!r}: expected keypoint_schema in its metadata, got none; register it with "
            "kgdet_d2.data.register_fashion or set MetadataCatalog.get(name).keypoint_schema"
        )
    registered = DatasetCatalog.list()
    similar = get_close_matches(name, registered, n=5)
    similar = similar or [other for other in registered if _find_schema(other) is not None]
    raise ValueError(f"dataset {name!r} is not registered: expected, for instance, {', '.join(similar)}")


def _find_schema(name: str) -> KeypointSchema | None:
    # MetadataCatalog.get alone would make an entry for any name.
    return MetadataCatalog.get(name).get("keypoint_schema") if name in MetadataCatalog.list() else None


def check_schema_of_datasets(names: Iterable[str], schema: KeypointSchema) -> None:
    """Check that datasets are annotated with the model's landmarks.

    Args:
        names: the registered datasets.
        schema: the model's, ``MODEL.KGDET.SCHEMA``.

    Raises:
        ValueError: a dataset is not registered, or has no schema or another one; names both.
    """
    for name in names:
        annotated = schema_of_dataset(name)
        if annotated != schema:
            raise ValueError(
                f"dataset {name!r}: expected the landmarks of MODEL.KGDET.SCHEMA = {schema.name!r}, "
                f"got those of {annotated.name!r}"
            )
