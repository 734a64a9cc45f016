"""The making of a data set's folder out of COCO files: annotations, the schema, and where the photos are."""

import argparse
import os
import re
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data.convert.coco import CocoFile, read_coco
from kgdet_d2.data.convert.coco_photos import PhotoFolder, read_split
from kgdet_d2.data.convert.coco_schema import check_same_classes, describe_schema, match_categories
from kgdet_d2.data.convert.records import begin_file, begin_split, print_split
from kgdet_d2.schema import KeypointSchema, load_schema, schema_from_description, schema_to_yaml

DESCRIPTION = """Turn COCO keypoint files into a data set of your own classes and landmarks.

    kgdet prepare coco --json train.json --images photos --name mine --val-json val.json

It is then registered as mine_train and mine_val. The folder mine gets dataset.yaml, schema.yaml, and in
annotations for each split an .npz and a report, a line for everything that was left out. The photos stay
where they are. schema.yaml has the classes, landmarks, pairs of left and right, and sigmas: edit it before
training; a later run keeps it as long as classes and landmarks are the same.
"""
SCHEMA, DATASET = "schema.yaml", "dataset.yaml"
ANNOTATIONS = "annotations"
SPLITS = {"train": "train", "val": "validation"}  # the name in dataset.yaml -> of the files
_NAME = re.compile(r"\w[\w.-]*")
_REPLACE = "--overwrite-schema replaces {}, and the edits in it are lost"


@dataclass(frozen=True)
class _Chosen:
    """A schema, the file that it is from, and the bytes to write; None to keep the file that is there."""

    schema: KeypointSchema
    source: str
    content: bytes | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``kgdet prepare coco``, but for ``--workers`` and ``--strict``."""
    add = parser.add_argument
    add("--json", type=Path, required=True, metavar="FILE", help="COCO keypoints to train on")
    add("--images", type=Path, required=True, metavar="DIR", help="what its file_names are relative to")
    add("--name", type=_name, required=True, help="of the data set: NAME_train and NAME_val are registered")
    add("--val-json", type=Path, metavar="FILE", help="COCO keypoints to evaluate on; default: none")
    add("--val-images", type=Path, metavar="DIR", help="default: those of --images")
    add("--output", type=Path, metavar="DIR", help="default: NAME in $DETECTRON2_DATASETS, or in datasets")
    add("--schema", type=Path, metavar="FILE", help="classes and landmarks; default: those of --json")
    add("--overwrite-schema", action="store_true", help="replace a schema.yaml that is there")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected letters, digits, '_', '-' and '.', got {text!r}")
    return text


def prepare(args: argparse.Namespace) -> None:
    """Read the files, write the folder, print counts and the next command.

    Nothing is written before everything is read.

    Raises:
        OSError, ValueError: a file cannot be read, files contradict one another or the schema that is there,
            no photo can be used, or there is a problem with ``--strict``.
    """
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    folder = args.output or root / args.name
    _check_name(args.name)
    files = {"train": read_coco(args.json)}
    photos = {"train": PhotoFolder(args.images)}
    if args.val_json is not None:
        files["val"], photos["val"] = read_coco(args.val_json), PhotoFolder(args.val_images or args.images)
    chosen = _choose_schema(folder / SCHEMA, args.schema, args.name, files["train"], args.overwrite_schema)
    classes = {split: match_categories(chosen.schema, chosen.source, file) for split, file in files.items()}
    how = {"workers": args.workers, "strict": args.strict}
    results = {
        split: read_split(file, photos[split], chosen.schema, classes[split], description=split, **how)
        for split, file in files.items()
    }
    with ExitStack() as stack:
        if chosen.content is not None:
            begin_file(stack, folder / SCHEMA, methodcaller("write", chosen.content))
        splits = {split: _split_entry(folder, split, photos[split].root) for split in files}
        content = yaml.safe_dump(
            {"name": args.name, "schema": SCHEMA, "splits": splits}, sort_keys=False, allow_unicode=True
        )
        begin_file(stack, folder / DATASET, methodcaller("write", content.encode()))
        for split, result in results.items():
            begin_split(stack, folder / ANNOTATIONS, SPLITS[split], *result)
    for split, result in results.items():
        print_split(folder / ANNOTATIONS, SPLITS[split], *result)
    _print_schema(chosen.schema, folder / SCHEMA)
    found = os.path.abspath(folder.parent) == os.path.abspath(root)
    where = "" if found else f"DETECTRON2_DATASETS={shlex.quote(str(folder.parent))} "
    print(f"next: {where}kgdet check {args.name}_train")


def _check_name(name: str) -> None:
    """Check that a name is not that of a data set that is registered otherwise.

    Raises:
        ValueError: it is.
    """
    for split in SPLITS:
        registered = f"{name}_{split}"
        if registered in DatasetCatalog:
            file = Path(MetadataCatalog.get(registered).get("annotation_file", ""))
            if not (file.parent.parent / DATASET).is_file():
                raise ValueError(f"--name {name}: expected another one: {registered} is registered already")


def _choose_schema(path: Path, given: Path | None, name: str, file: CocoFile, overwrite: bool) -> _Chosen:
    """Return the schema that is given, or else the one at ``path``, or else that of the file's categories.

    Raises:
        FileNotFoundError: there is no such file as ``given``.
        ValueError: a schema cannot be read, or the one at ``path`` is another one and not to be replaced.
    """
    replaces = _REPLACE.format(path)
    kept = None if overwrite or not path.is_file() else load_schema(path)
    if given is not None:
        schema = load_schema(given)
        if kept not in (None, schema):
            raise ValueError(f"{path}: expected what {given} has, got another schema; {replaces}")
        return _Chosen(schema, str(given), None if kept else given.read_bytes())
    if kept is None:
        schema = schema_from_description(describe_schema(name, file))
        return _Chosen(schema, str(file.path), schema_to_yaml(schema).encode())
    try:
        match_categories(kept, str(path), file)
        check_same_classes(kept, str(path), file)
    except ValueError as error:
        raise ValueError(f"{error}; {replaces}") from error
    return _Chosen(kept, str(path), None)


def _split_entry(folder: Path, split: str, images: Path) -> dict[str, str]:
    """Return where a split's files are, relative to the folder; photos outside of it by their full path."""
    full = Path(os.path.abspath(images))
    inside = full.is_relative_to(os.path.abspath(folder))
    return {
        "annotations": f"{ANNOTATIONS}/{SPLITS[split]}.npz",
        "images": os.path.relpath(full, folder) if inside else str(full),
    }


def _print_schema(schema: KeypointSchema, path: Path) -> None:
    """Print what the schema has, and a warning for each class whose mirror images are not known."""
    print(
        f"{path}: {schema.num_classes} classes, {schema.num_keypoints} landmarks; "
        "look at its pairs of left and right (flip) and at its sigmas before training"
    )
    for name, reason in schema.unpaired_classes.items():
        print(
            f"warning: class {name!r}: {reason}: photos cannot be mirrored in training until {path} has in "
            f"{name!r} the pairs that change places, flip: [[a, b], ...], or flip: none",
            file=sys.stderr,
        )
