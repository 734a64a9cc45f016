"""The keypoint schema of a registered dataset, and of a config."""

from collections.abc import Iterable
from difflib import get_close_matches
from textwrap import shorten

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from kgdet_d2.schema import DEEPFASHION2, KeypointSchema, get_schema, schema_from_description

AUTO = "auto"  # MODEL.KGDET.SCHEMA: that of the data


def schema_of_config(cfg: CfgNode) -> KeypointSchema:
    """Return the classes and landmarks of a config's model, ``MODEL.KGDET.SCHEMA``.

    "auto" stands for those of the first of ``DATASETS.TRAIN``, or else of ``DATASETS.TEST``, and for
    DeepFashion2's where no dataset is named.

    Raises:
        ValueError: there is no such schema, or see :func:`schema_of_dataset`.
    """
    if cfg.MODEL.KGDET.SCHEMA != AUTO:
        return get_schema(cfg.MODEL.KGDET.SCHEMA)
    datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    return schema_of_dataset(datasets[0]) if datasets else DEEPFASHION2


def schema_of_dataset(name: str) -> KeypointSchema:
    """Return the classes and landmarks that a dataset is annotated with.

    They are its metadata's ``keypoint_schema``, or else follow from Detectron2's ``thing_classes``,
    ``keypoint_names``, ``keypoint_flip_map`` and ``keypoint_connection_rules``: landmarks that all classes
    share.

    Raises:
        ValueError: no dataset is registered under this name (the message lists others, similar ones first),
            or it is registered without names of its landmarks (the message tells how to add them).
    """
    schema = _find_schema(name)
    if schema is not None:
        return schema
    if name not in DatasetCatalog:
        raise ValueError(f"dataset {name!r} is not registered: expected, for instance, {_others(name)}")
    metadata = MetadataCatalog.get(name)
    if not metadata.get("thing_classes"):
        DatasetCatalog.get(name)  # Detectron2's reader of COCO's JSON names the classes when it reads them
    if not (metadata.get("thing_classes") and metadata.get("keypoint_names")):
        raise ValueError(
            f"dataset {name!r}: expected the names of its landmarks in its metadata, keypoint_schema or "
            "Detectron2's thing_classes and keypoint_names, got none; kgdet prepare coco reads them from JSON"
        )
    metadata.keypoint_schema = _schema_of_metadata(name, metadata)
    return metadata.keypoint_schema


def _find_schema(name: str) -> KeypointSchema | None:
    # MetadataCatalog.get alone would make an entry for any name.
    return MetadataCatalog.get(name).get("keypoint_schema") if name in MetadataCatalog.list() else None


def _others(name: str) -> str:
    registered = DatasetCatalog.list()
    similar = get_close_matches(name, registered, n=5)
    return ", ".join(similar or [other for other in registered if _find_schema(other) is not None])


def _schema_of_metadata(name: str, metadata: Metadata) -> KeypointSchema:
    """Make a schema of Detectron2's own metadata of keypoints."""
    names = list(metadata.keypoint_names)
    rules = metadata.get("keypoint_connection_rules", ())  # of two names and a colour
    part: dict[str, object] = {"landmarks": names, "skeleton": [list(rule[:2]) for rule in rules]}
    if metadata.get("keypoint_flip_map") is not None:
        part["flip"] = [list(pair) for pair in metadata.keypoint_flip_map] or "none"
    classes = {class_name: part for class_name in metadata.thing_classes}
    try:
        return schema_from_description({"name": name, "slots": names, "classes": classes})
    except ValueError as error:
        raise ValueError(f"dataset {name!r}: its metadata: {error}") from error


def check_schema_of_datasets(names: Iterable[str], schema: KeypointSchema) -> None:
    """Check that datasets are annotated with the model's classes and landmarks.

    Args:
        names: the registered datasets.
        schema: the model's, ``MODEL.KGDET.SCHEMA``.

    Raises:
        ValueError: a dataset is not registered, or has no schema or other landmarks; names both.
    """
    for name in names:
        annotated = schema_of_dataset(name)
        if schema.difference(annotated):
            raise ValueError(
                f"dataset {name!r}: expected the landmarks of MODEL.KGDET.SCHEMA = {_counted(schema)}, got "
                f"those of {_counted(annotated)}: {shorten(schema.difference(annotated), 200)}"
            )


def _counted(schema: KeypointSchema) -> str:
    return f"{schema.name!r} ({schema.num_classes} classes, {schema.num_keypoints} landmarks)"


def check_mirroring(cfg: CfgNode) -> None:
    """Refuse to mirror images in training where it is not known which landmarks change places.

    Raises:
        ValueError: names the classes, and what to do.
    """
    unpaired = schema_of_config(cfg).unpaired_classes
    if unpaired and cfg.MODEL.KEYPOINT_ON and cfg.INPUT.RANDOM_FLIP != "none":
        reasons = "; ".join(f"class {name!r}: {reason}" for name, reason in unpaired.items())
        raise ValueError(
            "INPUT.RANDOM_FLIP: expected none, since it is not known which landmarks change places in a "
            f"mirrored image ({reasons}), got {cfg.INPUT.RANDOM_FLIP!r}; or say it in schema.yaml, "
            "flip: [[a, b], ...] or flip: none"
        )
