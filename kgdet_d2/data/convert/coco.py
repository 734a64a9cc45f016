"""The reading of COCO's keypoint files: photos with their annotations, categories with their landmarks.

Files of several tools differ: ids have gaps, or are floats or strings; landmarks are those of each category,
or one set for all; there are categories above the others that have neither landmarks nor annotations. All of
these are read.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from kgdet_d2.data.convert.records import RecordError, RecordIssue, unique
from kgdet_d2.utils.check import whole_number

Key = int | str  # an id: a whole number, or another text
Edge = tuple[int, int]

_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")  # which JSON can express, and no file
_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Category:
    """A category.

    Attributes:
        name: in Unicode's composed form, as the landmarks' names.
        landmarks: their names, () where the file has none.
        skeleton: pairs of landmarks, from 0.
        used: whether there are annotations of it.
    """

    name: str
    landmarks: tuple[str, ...]
    skeleton: tuple[Edge, ...]
    used: bool


@dataclass(frozen=True)
class CocoImage:
    """An entry of ``images`` and those of ``annotations`` that belong to it.

    Attributes:
        key: the id in the file.
        image_id: the id, or the position from 1 where not all ids are numbers of 64 bits.
        content: the entry.
        annotations: what they are called in the report, and the entries.
    """

    key: Key
    image_id: int
    content: dict[str, Any]
    annotations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def item(self) -> str:
        """What the photo is called in the report."""
        return f"image {self.key}"


@dataclass(frozen=True)
class CocoFile:
    """A file's contents, and the problems that were met.

    Attributes:
        path: the file.
        images: in its order, each id once.
        categories: by id, those that have landmarks or annotations.
        problems: of entries that belong to no usable photo, and of ids that occur twice.
    """

    path: Path
    images: list[CocoImage]
    categories: dict[Key, Category]
    problems: list[RecordIssue]


def read_coco(path: Path) -> CocoFile:
    """Read a file, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: it is not JSON, lacks a list, or has a category that is none.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected COCO's object with {', '.join(_LISTS)}, got {shortened(content)}")
    for name in _LISTS:
        if not isinstance(content.get(name), list):
            found = shortened(content[name]) if name in content else "none"
            raise ValueError(f"{path}: expected a list {name!r} in COCO's object, got {found}")
    problems: list[RecordIssue] = []
    images = _read_images(path, content["images"], problems)
    _deal_annotations(path, content["annotations"], images, problems)
    used = {key_or_none(entry, "category_id") for entry in content["annotations"]}
    categories = _read_categories(path, content["categories"], used, problems)
    return CocoFile(path, [image for image in images.values() if image is not None], categories, problems)


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error


# --- images and annotations ---


def _read_images(path: Path, entries: Sequence, problems: list[RecordIssue]) -> dict[Key, CocoImage | None]:
    """Return the images by id; None for an id whose entries name different photos."""
    found: dict[Key, dict | None] = {}
    for position, entry in enumerate(entries):
        try:
            key = entry_id(entry, "id")
        except RecordError as error:
            problems.append(RecordIssue.of(error, path, f"images[{position}]", "photo"))
            continue
        first = found.setdefault(key, entry)
        if first is entry:
            continue
        same = first is not None and first.get("file_name") == entry.get("file_name")
        dropped, which = ("nothing", "the same") if same else ("photo", "another")
        reason = f"images[{position}] has an id that occurred before, with {which} photo"
        problems.append(RecordIssue(path, f"image {key}", dropped, "image id occurs twice", reason))
        if not same:
            found[key] = None  # which annotations are whose is not known
    numbered = all(isinstance(key, int) and -(2**63) <= key < 2**63 for key in found)
    return {
        key: None if entry is None else CocoImage(key, int(key) if numbered else position, entry)
        for position, (key, entry) in enumerate(found.items(), 1)
    }


def _deal_annotations(
    path: Path, entries: Sequence, images: dict[Key, CocoImage | None], problems: list[RecordIssue]
) -> None:
    """Give each annotation to its image."""
    firsts: dict[Key, dict] = {}
    for position, entry in enumerate(entries):
        where = f"annotations[{position}]"
        try:
            image_key = entry_id(entry, "image_id")
        except RecordError as error:
            problems.append(RecordIssue.of(error, path, where, "garment"))
            continue
        key = key_or_none(entry, "id")
        item = f"image {image_key}, {where if key is None else f'annotation {key}'}"
        if image_key not in images:
            reason = f"image_id: expected that of an image, got {image_key!r}"
            problems.append(RecordIssue(path, item, "garment", "unknown image", reason))
            continue
        if key is not None and firsts.setdefault(key, entry) is not entry:
            same = firsts[key] == entry
            what = "the same: left out" if same else "another: kept"
            reason = f"{where} has an id that occurred before; it is {what}"
            problems.append(RecordIssue(path, item, "nothing", "annotation id occurs twice", reason))
            if same:
                continue
        image = images[image_key]
        if image is not None:
            image.annotations.append((item, entry))


def entry_id(entry: object, name: str) -> Key:
    """Return the id of an entry: whole numbers alike however they are written, or any other text.

    Raises:
        RecordError: the entry is no object, or has no such id.
    """
    if not isinstance(entry, dict):
        raise RecordError("wrong type", f"expected a JSON object, got {shortened(entry)}")
    if name not in entry:
        raise RecordError("field missing", f"{name} is missing")
    value = entry[name]
    if type(value) is int:
        return value
    try:
        return whole_number(value)
    except ValueError as error:
        if isinstance(value, str) and value.strip():
            return value
        raise RecordError("wrong type", f"{name}: {error}") from error


def key_or_none(entry: object, name: str) -> Key | None:
    """Return the id of an entry, None where it has no such id."""
    try:
        return entry_id(entry, name)
    except RecordError:  # of no use as an id; whoever needs it reports it
        return None


# --- categories ---


def _read_categories(
    path: Path, entries: Sequence, used: set[Key | None], problems: list[RecordIssue]
) -> dict[Key, Category]:
    """Return the categories by id, without those that have neither landmarks nor annotations."""
    categories: dict[Key, Category] = {}
    names: dict[str, Key] = {}
    for position, entry in enumerate(entries):
        where = f"{path}: categories[{position}]"
        try:
            key = entry_id(entry, "id")
        except RecordError as error:
            raise ValueError(f"{where}: {error}") from error
        name = _name(f"{where}: name", entry.get("name"))
        where = f"{path}: category {name!r}"
        landmarks = _landmarks(where, entry.get("keypoints"))
        if not landmarks and key not in used:
            continue
        if key in categories or name in names:
            other = categories[key].name if key in categories else f"id {names[name]}"
            raise ValueError(f"{where}: expected an id and a name of its own, got those of {other!r}")
        skeleton, errors = _skeleton(entry.get("skeleton"), len(landmarks))
        problems += [RecordIssue.of(error, path, f"category {name}", "nothing") for error in errors]
        categories[key], names[name] = Category(name, landmarks, skeleton, key in used), key
    return categories


def composed(text: str) -> str:
    """Return a text in Unicode's composed form: the same for names that look the same."""
    return unicodedata.normalize("NFC", text)


def _name(where: str, value: object) -> str:
    usable = isinstance(value, str | int) and not isinstance(value, bool)
    text = composed(str(value)) if usable else ""
    if not text.strip() or _HALF_A_CHARACTER.search(text):
        raise ValueError(f"{where}: expected a text, got {shortened(value)}")
    return text


def _landmarks(where: str, values: object) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list):
        raise ValueError(f"{where}: keypoints: expected a list of names, got {shortened(values)}")
    names = tuple(_name(f"{where}: keypoints", value) for value in values)
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    if twice:
        again = ", ".join(map(repr, twice))
        raise ValueError(f"{where}: keypoints: expected each name once, got {again} again")
    return names


def _skeleton(edges: object, count: int) -> tuple[tuple[Edge, ...], list[RecordError]]:
    """Return the pairs, from 0, and why others were left out. COCO counts from 1, some tools from 0."""
    if not edges or not count:
        return (), []
    given = edges if isinstance(edges, list) else [edges]
    pairs = [_whole_numbers(edge) for edge in given]
    first = 0 if any(0 in pair for pair in pairs) else 1
    skeleton, errors = [], []
    for edge, pair in zip(given, pairs, strict=True):
        if len(set(pair)) == len(pair) == 2 and all(first <= number < first + count for number in pair):
            skeleton.append((pair[0] - first, pair[1] - first))
        else:
            expected = f"two different numbers {first}..{count - 1 + first}"
            errors.append(RecordError("skeleton", f"skeleton: expected {expected}, got {shortened(edge)}"))
    return tuple(skeleton), errors


def _whole_numbers(values: object) -> list[int]:
    """Return the numbers of a list, none where it is something else."""
    try:
        return [whole_number(value) for value in values] if isinstance(values, list) else []
    except ValueError:  # reported as a pair that is none
        return []
