"""DeepFashion2's native tree, read and checked: ``<split>/annos/*.json`` beside ``<split>/image/*.jpg``."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from kgdet_d2.data.compact import CompactAnnotations, Garment, Photo
from kgdet_d2.schema import DEEPFASHION2

_ATTRIBUTES = ("style", "scale", "occlusion", "zoom_in", "viewpoint")
_SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that exchange width and height
_FAR = 2**24  # pixels; up to here float32 holds every whole number


@dataclass(frozen=True)
class Problem:
    """What cannot be used: the annotation file, the item ("" for the whole file), the reason."""

    path: Path
    item: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.path), self.item, self.reason)))


def read_split(
    folder: Path, *, workers: int = 1, strict: bool = False
) -> tuple[CompactAnnotations, list[Problem]]:
    """Read a split's annotations and the sizes of its photos, in the order of the file names.

    A photo is left out when its whole file cannot be used, a garment when something in its item is wrong,
    a polygon alone when it is no polygon.

    Args:
        folder: the split's folder, with ``annos`` and ``image`` in it.
        workers: processes that read.
        strict: stop at the first problem.

    Raises:
        FileNotFoundError: the folder, ``annos`` or ``image`` is missing, or there is no annotation.
        ValueError: there is no usable photo; or any problem when ``strict``.
    """
    for directory in (folder, folder / "annos", folder / "image"):
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory}: there is no such folder")
    files = sorted((folder / "annos").glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder / 'annos'}: there is no annotation (*.json) in it")
    photos, problems = [], []
    for photo, found in tqdm(_read_photos(files, workers), total=len(files), desc=folder.name, unit="photo"):
        if strict and found:
            raise ValueError(str(found[0]))
        problems.extend(found)
        if photo is not None:
            photos.append(photo)
    if not photos:
        raise ValueError(f"{folder}: none of its {len(files)} annotations can be used; {problems[0]}")
    return CompactAnnotations.from_photos(photos, DEEPFASHION2), problems


def _read_photos(files: list[Path], workers: int) -> Iterator[tuple[Photo | None, list[Problem]]]:
    if workers == 1:
        yield from map(read_photo, files)
    else:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(read_photo, files, chunksize=64)


def read_photo(annotation_file: Path) -> tuple[Photo | None, list[Problem]]:
    """Read one annotation file and the size of its photo.

    Returns:
        The photo, or None when the whole file cannot be used; and the problems met.
    """
    image_file = annotation_file.parents[1] / "image" / f"{annotation_file.stem}.jpg"
    try:
        content = _object(json.loads(annotation_file.read_bytes()))
        image_id = _number("file name", r"(\d+)", annotation_file.stem)
        source, pair_id = _field(content, "source", str), _field(content, "pair_id", int)
        width, height = oriented_size(image_file)
    except (ValueError, OSError) as error:
        return None, [Problem(annotation_file, "", str(error))]
    garments, problems = [], []
    for key in sorted(filter(lambda key: key.startswith("item"), content), key=lambda key: (len(key), key)):
        try:
            garment, reasons = _read_garment(key, _object(content[key]))
            garments.append(garment)
        except ValueError as error:
            reasons = [str(error)]
        problems.extend(Problem(annotation_file, key, reason) for reason in reasons)
    attributes = {"source": source, "pair_id": pair_id}
    return Photo(image_file.name, image_id, width, height, garments, attributes), problems


def oriented_size(image_file: Path) -> tuple[int, int]:
    """Width and height in pixels as Detectron2's ``read_image`` gives the photo, from its header alone.

    Raises:
        OSError: the file is missing or no image.
    """
    with Image.open(image_file) as image:
        width, height = image.size
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:  # Pillow raises many kinds for a damaged EXIF block, which read_image ignores too
            orientation = None
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def _read_garment(key: str, content: dict) -> tuple[Garment, list[str]]:
    """One item, and why polygons of it were dropped. Raises ValueError when the item cannot be used."""
    item = _number("item's name", r"item(\d+)", key)
    category_id = _read_class(content)
    box = _numbers("bounding_box", _field(content, "bounding_box", list), 4)
    if not (box[2] > box[0] and box[3] > box[1]):
        raise ValueError(f"bounding_box: expected x1 < x2 and y1 < y2, got {box.tolist()}")
    count = DEEPFASHION2.num_landmarks(category_id)
    landmarks = _numbers("landmarks", _field(content, "landmarks", list), 3 * count).reshape(count, 3)
    if not np.isin(landmarks[:, 2], (0, 1, 2)).all():
        raise ValueError(
            f"landmarks: expected visibility 0, 1 or 2, got {np.unique(landmarks[:, 2]).tolist()}"
        )
    attributes = {"item": item} | {name: _field(content, name, int) for name in _ATTRIBUTES}
    polygons, reasons = _read_polygons(_field(content, "segmentation", list))
    return Garment(category_id, box, landmarks, polygons, attributes), reasons


def _read_class(content: dict) -> int:
    """The 0-based class index."""
    native, name = _field(content, "category_id", int), _field(content, "category_name", str)
    if not 1 <= native <= DEEPFASHION2.num_classes:
        raise ValueError(f"category_id: expected 1..{DEEPFASHION2.num_classes}, got {native}")
    expected = DEEPFASHION2.class_names[native - 1]
    if name != expected:
        raise ValueError(f"category_name: expected {expected!r} for category_id {native}, got {name!r}")
    return native - 1


def _read_polygons(segmentation: list) -> tuple[list[np.ndarray], list[str]]:
    polygons, reasons = [], []
    for index, polygon in enumerate(segmentation):
        try:
            numbers = _numbers(f"segmentation[{index}]", polygon)
            if len(numbers) < 6 or len(numbers) % 2:
                raise ValueError(
                    f"segmentation[{index}]: expected 3 points or more, got {len(numbers)} numbers"
                )
            polygons.append(numbers.reshape(-1, 2))
        except ValueError as error:
            reasons.append(f"polygon dropped: {error}")
    return polygons, reasons


def _object(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {shortened(value)}")
    return value


def _field(content: dict, name: str, kind: type) -> Any:
    if name not in content:
        raise ValueError(f"{name} is missing")
    if type(content[name]) is not kind:  # isinstance would take true for an int
        raise ValueError(f"{name}: expected {kind.__name__}, got {shortened(content[name])}")
    return content[name]


def _number(what: str, pattern: str, text: str) -> int:
    match = re.fullmatch(pattern, text)
    if match is None:
        raise ValueError(f"{what}: expected {pattern}, got {text!r}")
    return int(match[1])


def _numbers(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """A flat list of numbers -> float32."""
    if not isinstance(values, list) or not all(type(x) in (int, float) and abs(x) < _FAR for x in values):
        raise ValueError(f"{name}: expected a list of numbers below {_FAR}, got {shortened(values)}")
    if length is not None and len(values) != length:
        raise ValueError(f"{name}: expected {length} numbers, got {len(values)}")
    return np.array(values, dtype=np.float32)
