"""Datasets under Detectron2's names; nothing is read before a dataset is asked for."""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data.compact import CompactAnnotations
from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.schema import DEEPFASHION2, KeypointSchema

_SPLITS = {"train": "train", "val": "validation"}  # in the dataset's name -> in the tree
_PREPARE = "python datasets/prepare_deepfashion2.py --root {folder}"
_MADE_BY = {
    "deepfashion2": _PREPARE,
    "synthfashion": f"python datasets/make_synthetic.py --root {{folder}} && {_PREPARE}",
}


def register_fashion(
    name: str,
    schema: KeypointSchema,
    image_root: str | Path,
    annotation_file: str | Path,
    *,
    made_by: str = "",
) -> None:
    """Register a dataset of photos and a compact annotation file.

    ``DatasetCatalog.get(name)`` gives a :class:`FashionDataset`; the metadata holds
    ``thing_classes``, ``keypoint_schema`` and, over the schema's global slots, ``keypoint_names`` and
    ``keypoint_flip_map``.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``; not in use yet.
        schema: the landmarks.
        image_root: the folder that the annotations' file names are relative to.
        annotation_file: what :meth:`CompactAnnotations.save` wrote. It may be made later.
        made_by: the command that makes it, for the error when it is missing.
    """

    def load() -> FashionDataset:
        return FashionDataset(CompactAnnotations.load(annotation_file, schema, made_by=made_by), image_root)

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
    """Register ``deepfashion2_train``, ``..._val`` and ``synthfashion_train``, ``..._val``.

    A second call replaces what the first registered.

    Args:
        root: the folder of the trees ``deepfashion2`` and ``synthfashion``.
    """
    for dataset, command in _MADE_BY.items():
        folder = Path(root) / dataset
        for suffix, split in _SPLITS.items():
            name = f"{dataset}_{suffix}"
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
            register_fashion(
                name,
                DEEPFASHION2,
                folder / split / "image",
                folder / "annotations" / f"{split}.npz",
                made_by=command.format(folder=folder),
            )
