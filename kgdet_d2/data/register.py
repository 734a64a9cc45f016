"""Datasets under Detectron2's names; nothing is read before a dataset is asked for."""

from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.schema import DEEPFASHION2, FLD, KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable


@dataclass(frozen=True)
class _Tree:
    """A dataset's folder: its landmarks, splits, and the command that prepares it.

    Attributes:
        schema: the landmarks.
        splits: in the dataset's name -> in the tree.
        image_root: the split's photos, below the folder.
        made_by: the command that makes the annotation files, of the folder.
    """

    schema: KeypointSchema
    splits: dict[str, str]
    image_root: str
    prepare_command: str


_DEEPFASHION2_SPLITS = {"train": "train", "val": "validation"}
_PREPARE = "python datasets/prepare_deepfashion2.py --root {folder}"
_TREES = {
    "deepfashion2": _Tree(DEEPFASHION2, _DEEPFASHION2_SPLITS, "{split}/image", _PREPARE),
    "synthfashion": _Tree(
        DEEPFASHION2,
        _DEEPFASHION2_SPLITS,
        "{split}/image",
        f"python datasets/make_synthetic.py --root {{folder}} && {_PREPARE}",
    ),
    "fld": _Tree(
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
    """Register a dataset of photos and a compact annotation file.

    ``DatasetCatalog.get(name)`` gives a :class:`FashionDataset`; the metadata holds
    ``thing_classes``, ``keypoint_schema`` and, over the schema's global slots, ``keypoint_names`` and
    ``keypoint_flip_map``.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``; not in use yet.
        schema: the landmarks.
        image_root: the folder that the annotations' file names are relative to.
        annotation_file: what :meth:`AnnotationTable.save` wrote. It may be made later.
        made_by: the command that makes it, for the error when it is missing.
    """

    def load() -> FashionDataset:
        return FashionDataset(
            AnnotationTable.load(annotation_file, schema, prepare_command=prepare_command), image_root
        )

    DatasetCatalog.register(name, load)
    names, partners = schema.slot_names, schema.flip_map.tolist()
    MetadataCatalog.get(name).set(
        thing_classes=list(schema.class_names),
        keypoint_schema=schema,
        keypoint_names=list(names),
        keypoint_flip_map=[
            (names[slot], names[other]) for slot, other in enumerate(partners) if slot < other
        ],
        image_root=str(image_root),
        annotation_file=str(annotation_file),
        evaluator_type="fashion",
    )


def register_all(root: str | Path) -> None:
    """Register ``<tree>_train`` and ``<tree>_val`` of every tree named below, and ``fld_test``.

    A second call replaces what the first registered.

    Args:
        root: the folder of the trees ``deepfashion2``, ``synthfashion`` and ``fld``.
    """
    for dataset, tree in _TREES.items():
        folder = Path(root) / dataset
        for suffix, split in tree.splits.items():
            name = f"{dataset}_{suffix}"
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
            register_fashion(
                name,
                tree.schema,
                folder / tree.image_root.format(split=split),
                folder / "annotations" / f"{split}.npz",
                prepare_command=tree.prepare_command.format(folder=folder),
            )
