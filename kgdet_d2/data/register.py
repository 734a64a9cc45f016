"""The registration of datasets in Detectron2's catalogues; ``DatasetCatalog.get`` reads their annotations."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.schema import DEEPFASHION2, FLD, KeypointSchema, load_schema
from kgdet_d2.structures.annotations import AnnotationTable

logger = logging.getLogger(__name__)

PREPARED = "dataset.yaml"  # in the folder of a dataset that ``kgdet prepare coco`` has prepared


@dataclass(frozen=True)
class _Split:
    """A split of a dataset.

    Attributes:
        schema: the landmarks.
        image_root: the images' folder.
        annotation_file: written by :meth:`AnnotationTable.save`, maybe later.
        prepare_command: the command that writes it, for the error when it is missing.
    """

    schema: KeypointSchema
    image_root: Path
    annotation_file: Path
    prepare_command: str


@dataclass(frozen=True)
class _Source:
    """A dataset with a layout of its own.

    Attributes:
        schema: the landmarks.
        splits: the split's name in the dataset's name -> in the folder.
        image_root: the images' folder, relative to the dataset's, with ``{split}``.
        prepare_command: the command that writes the annotation files, with ``{folder}``.
    """

    schema: KeypointSchema
    splits: dict[str, str]
    image_root: str
    prepare_command: str

    def at(self, folder: Path) -> dict[str, _Split]:
        """Return the splits, by the end of their dataset's name, where the dataset is in this folder."""
        return {
            suffix: _Split(
                self.schema,
                folder / self.image_root.format(split=split),
                folder / "annotations" / f"{split}.npz",
                self.prepare_command.format(folder=folder),
            )
            for suffix, split in self.splits.items()
        }


_SAMPLE_SPLITS = {"train": "train", "val": "validation"}
_PREPARE = "python datasets/prepare_deepfashion2.py --root {folder}"
_BUILTIN = {
    "deepfashion2": _Source(DEEPFASHION2, _SAMPLE_SPLITS | {"test": "test"}, "{split}/image", _PREPARE),
    "synthfashion": _Source(
        DEEPFASHION2,
        _SAMPLE_SPLITS,
        "{split}/image",
        f"python datasets/make_synthetic.py --root {{folder}} && {_PREPARE}",
    ),
    "fld": _Source(
        FLD,
        {"train": "train", "val": "val", "test": "test"},
        "",
        "python datasets/prepare_fld.py --root {folder}",
    ),
}


def register_fashion(
    name: str,
    schema: KeypointSchema,
    image_root: str | Path,
    annotation_file: str | Path,
    *,
    prepare_command: str = "",
) -> None:
    """Register a dataset of images and an annotation file.

    ``DatasetCatalog.get(name)`` gives a :class:`FashionDataset`; the metadata holds
    ``thing_classes``, ``keypoint_schema`` and, over the schema's global slots, ``keypoint_names`` and
    ``keypoint_flip_map``.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``; not in use yet.
        schema: the landmarks.
        image_root: the folder that the annotations' file names are relative to.
        annotation_file: written by :meth:`AnnotationTable.save`, maybe later.
        prepare_command: the command that writes it, for the error when it is missing.
    """

    def load() -> FashionDataset:
        return FashionDataset(
            AnnotationTable.load(annotation_file, schema, prepare_command=prepare_command), image_root
        )

    DatasetCatalog.register(name, load)
    names = schema.slot_names
    pairs = [(slot, mirror) for slot, mirror in enumerate(schema.flip_map.tolist()) if slot < mirror]
    MetadataCatalog.get(name).set(
        thing_classes=list(schema.class_names),
        keypoint_schema=schema,
        keypoint_names=list(names),
        keypoint_flip_map=[(names[slot], names[mirror]) for slot, mirror in pairs],
        image_root=str(image_root),
        annotation_file=str(annotation_file),
        evaluator_type="fashion",
    )


def register_all(root: str | Path) -> None:
    """Register ``<dataset>_train`` and ``_val`` of every dataset named above, and the test splits of two.

    So are datasets that were prepared below the folder, by their own names. A second call replaces what the
    first registered. A prepared dataset whose files cannot be used is logged and left out.

    Args:
        root: the folder of the folders ``deepfashion2``, ``synthfashion``, ``fld`` and of prepared datasets.
    """
    for dataset, source in _BUILTIN.items():
        _register_splits(dataset, source.at(Path(root) / dataset))
    for file in sorted(Path(root).glob(f"*/{PREPARED}")):
        try:
            name, splits = read_prepared(file)
        except (OSError, ValueError) as error:
            logger.warning("a prepared dataset is left out: %s", error)
            continue
        _register_splits(name, splits)


_registered: set[str] = set()  # by register_all


def _register_splits(dataset: str, splits: Mapping[str, _Split]) -> None:
    for suffix, split in splits.items():
        name = f"{dataset}_{suffix}"
        if name in _registered:
            for catalog in (DatasetCatalog, MetadataCatalog):
                if name in catalog:
                    catalog.remove(name)
        elif name in DatasetCatalog:
            logger.warning("dataset %r is registered already; that of %s is left out", name, split.image_root)
            continue
        register_fashion(
            name,
            split.schema,
            split.image_root,
            split.annotation_file,
            prepare_command=split.prepare_command,
        )
        _registered.add(name)


def read_prepared(file: str | Path) -> tuple[str, dict[str, _Split]]:
    """Read the description of a dataset that was prepared.

        name: mine
        schema: schema.yaml
        splits:
          train: {annotations: annotations/train.npz, images: /photos}
          val: {annotations: annotations/validation.npz, images: photos}

    Paths are relative to its folder.

    Returns:
        The dataset's name, and its splits by the ends of their names.

    Raises:
        OSError, ValueError: naming the file: it, or the schema's, cannot be used.
    """
    folder = Path(file).parent
    try:
        content = yaml.safe_load(Path(file).read_bytes())
        name = _named(content, "name")
        schema_file = folder / _named(content, "schema")
        places = {
            suffix: (folder / _named(split, "images"), folder / _named(split, "annotations"))
            for suffix, split in _items(content, "splits")
        }
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: not a usable description of a dataset: {error}") from error
    schema = load_schema(schema_file)
    return name, {
        suffix: _Split(schema, images, annotations, f"kgdet prepare coco --name {name} ...")
        for suffix, (images, annotations) in places.items()
    }


def _named(content: Any, field: str) -> str:
    value = content.get(field) if isinstance(content, dict) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{field}: expected a name, got {value!r}")
    return value


def _items(content: dict, field: str) -> list[tuple[str, Any]]:
    value = content.get(field)
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{field}: expected names with values, got {value!r}")
    return [(str(name), part) for name, part in value.items()]
