"""The registration of datasets in Detectron2's catalogues; nothing is read before ``DatasetCatalog.get``."""

from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.schema import DEEPFASHION2, FLD, KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable


@dataclass(frozen=True)
class _Source:
    """A dataset's folder: its landmarks, splits, and the command that prepares it.

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
    """Register ``<dataset>_train`` and ``_val`` of every dataset named below, and the test splits of two.

    A second call replaces what the first registered.

    Args:
        root: the folder of the folders ``deepfashion2``, ``synthfashion`` and ``fld``.
    """
    for dataset, source in _BUILTIN.items():
        folder = Path(root) / dataset
        for suffix, split in source.splits.items():
            name = f"{dataset}_{suffix}"
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
            register_fashion(
                name,
                source.schema,
                folder / source.image_root.format(split=split),
                folder / "annotations" / f"{split}.npz",
                prepare_command=source.prepare_command.format(folder=folder),
            )
