"""From the records of a reader to photos that can be used, and a count of what cannot.

A garment that cannot be used never teaches that nothing is there: where its class and box can be read it
becomes a region to ignore, otherwise its whole photo is left out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kgdet_d2.data.convert.records import REGION, GarmentRecord, PhotoRecord, RecordError, RecordIssue
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import Garment, Photo, columns_of_photos
from kgdet_d2.structures.validation import Fault, find_faults

_FEWEST_LOST = 3  # so many lost garments of a class, and more than half of it, are no accident
_PHOTO, _NOTHING = "photo", "nothing"


@dataclass
class Tally:
    """What has become of the garments of some photos.

    Attributes:
        used: garments of each class index that can be used, regions apart.
        lost: class index and line of each garment that cannot be used, whose class is known.
        rows: the number of photos and of garments, regions apart.
        having: how many of these have an attribute, by "photo" or "garment" and the attribute's name.
    """

    used: Counter[int] = field(default_factory=Counter)
    lost: list[tuple[int, RecordIssue]] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    having: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add the counts of further photos."""
        self.used += other.used
        self.lost += other.lost
        self.rows += other.rows
        self.having += other.having

    def check_losses(self, source: Path, schema: KeypointSchema) -> None:
        """Check that no class has lost most of its garments, and more than a few.

        Raises:
            ValueError: naming the class, the number, the commonest kind of problem and its first line.
        """
        lost = defaultdict(list)
        for category_id, issue in self.lost:
            lost[category_id].append(issue)
        for category_id, issues in sorted(lost.items()):
            total = len(issues) + self.used[category_id]
            if len(issues) >= _FEWEST_LOST and 2 * len(issues) > total:
                kind, count = Counter(issue.kind for issue in issues).most_common(1)[0]
                first = next(issue for issue in issues if issue.kind == kind)
                raise ValueError(
                    f"{source}: class {schema.class_names[category_id]!r}: {len(issues)} of {total} garments "
                    f"cannot be used, {count} of them because of {kind!r}; the first is {first}"
                )

    def missing_attributes(self, source: Path) -> list[RecordIssue]:
        """Return a line for each attribute that some photos or garments lack, and not all."""
        issues = []
        for (kind, name), having in self.having.items():
            if having < self.rows[kind]:
                reason = f"{name} is missing in {self.rows[kind] - having} of {self.rows[kind]} {kind}s"
                issues.append(RecordIssue(source, "", "attribute", "field missing", reason))
        return issues


def usable_photos(
    results: Iterable[tuple[PhotoRecord | None, list[RecordIssue]]],
    schema: KeypointSchema,
    names: Mapping[str, str],
) -> tuple[list[Photo], list[RecordIssue], Tally]:
    """Make the photos of records, without what cannot be used.

    A landmark far outside its photo becomes 0, 0, 0, and a polygon that is none is left out. A garment with
    any other fault becomes a region to ignore, of class and box alone; where its class or box is at
    fault its photo is left out.

    Args:
        results: of a reader: a photo, or None where it cannot be used, and the problems met with it.
        schema: classes and landmarks.
        names: the native names of a garment's fields, by their names in :class:`Fault`.

    Returns:
        The photos, a line for each problem in the order of the records, and the count.
    """
    results = list(results)
    selection = _Selection(schema, names)
    raw = [selection.raw_photo(record) for record, _ in results if record is not None]
    faults = defaultdict(list)
    for fault in find_faults(columns_of_photos(raw), schema):
        faults[fault.image].append(fault)
    photos: list[Photo] = []
    problems: list[RecordIssue] = []
    row = 0
    for record, issues in results:
        if record is None:
            problems += issues
            continue
        photo, lines = selection.usable_photo(record, raw[row], faults[row])
        lines = [*issues, *lines]
        if any(line.dropped == _PHOTO for line in lines):
            lines = [line if line.dropped == _NOTHING else replace(line, dropped=_PHOTO) for line in lines]
        else:
            photos.append(photo)
            selection.count_attributes(photo)
        problems += lines
        row += 1
    return photos, problems, selection.tally


class _Selection:
    """What :func:`usable_photos` does with a photo and with a garment."""

    def __init__(self, schema: KeypointSchema, names: Mapping[str, str]) -> None:
        self.schema, self.names, self.tally = schema, names, Tally()

    def raw_photo(self, record: PhotoRecord) -> Photo:
        """Make the photo of a record, of garments with any values."""
        garments = [self._raw_garment(garment) for garment in record.garments]
        size = record.width, record.height
        return Photo(record.file_name, record.image_id, *size, garments, record.attributes)

    def _raw_garment(self, record: GarmentRecord) -> Garment:
        """Make the garment of a record, a region to ignore where its reader has given it up."""
        given_up = record.error is not None
        keypoints = None if given_up else record.keypoints
        return Garment(
            category_id=record.category_id,
            box=np.full(4, np.nan, np.float32) if record.box is None else record.box,
            keypoints=self._no_landmarks(record.category_id) if keypoints is None else keypoints,
            polygons=() if given_up else record.polygons,
            attributes={} if given_up else record.attributes,
            iscrowd=given_up or record.iscrowd,
        )

    def _no_landmarks(self, category_id: int) -> np.ndarray:
        known = 0 <= category_id < self.schema.num_classes
        return np.zeros((self.schema.num_class_keypoints(category_id) if known else 0, 3), np.float32)

    def usable_photo(
        self, record: PhotoRecord, raw: Photo, faults: Sequence[Fault]
    ) -> tuple[Photo, list[RecordIssue]]:
        """Return the photo with what can be used of its garments, and its lines."""
        lines = [
            RecordIssue(record.path, "", _PHOTO, fault.kind, f"{fault.field}: {fault.reason}")
            for fault in faults
            if fault.garment < 0
        ]
        garments = []
        for place, garment_record in enumerate(record.garments):
            own = [fault for fault in faults if fault.garment == place]
            garment, lost = self._usable_garment(garment_record, raw.garments[place], own)
            garments.append(garment)
            issues = [self._line(record, garment_record, part, fault) for part, fault in lost]
            self._count(garment_record, issues)
            lines += issues
        return replace(raw, garments=garments), lines

    def _usable_garment(
        self, record: GarmentRecord, garment: Garment, faults: Sequence[Fault]
    ) -> tuple[Garment, list[tuple[str, Fault | RecordError]]]:
        """Return what can be used of a garment, and what is lost by each of its faults."""
        unusable = [fault for fault in faults if fault.part == "garment"]
        if record.error is None and not unusable:
            return _without_parts(garment, faults), [(fault.part, fault) for fault in faults]
        reasons = unusable if record.error is None else [record.error]
        if any(fault.field in ("category_id", "bbox") for fault in unusable):
            return garment, [(_PHOTO, reason) for reason in reasons]
        absent = self._no_landmarks(garment.category_id)
        region = replace(garment, keypoints=absent, polygons=(), attributes={}, iscrowd=True)
        return region, [(REGION, reason) for reason in reasons]

    def _line(
        self, photo: PhotoRecord, garment: GarmentRecord, part: str, fault: Fault | RecordError
    ) -> RecordIssue:
        if isinstance(fault, RecordError):
            return RecordIssue.of(fault, fault.path or photo.path, garment.item, part)
        path = garment.paths.get(fault.field, photo.path)
        reason = f"{self.names.get(fault.field, fault.field)}: {fault.reason}"
        return RecordIssue(path, garment.item, part, fault.kind, reason)

    def _count(self, record: GarmentRecord, lines: Sequence[RecordIssue]) -> None:
        """Count a garment as lost or as used, where its class is known."""
        lost = [line for line in lines if line.dropped in (_PHOTO, REGION)]
        if lost and 0 <= record.category_id < self.schema.num_classes:
            self.tally.lost.append((record.category_id, lost[0]))
        elif not lost and not record.iscrowd:
            self.tally.used[record.category_id] += 1

    def count_attributes(self, photo: Photo) -> None:
        """Count the attributes that a photo and its garments, regions apart, have."""
        garments = [garment for garment in photo.garments if not garment.iscrowd]
        self.tally.rows.update({_PHOTO: 1, "garment": len(garments)})
        self.tally.having.update((_PHOTO, name) for name in photo.attributes)
        self.tally.having.update(("garment", name) for garment in garments for name in garment.attributes)


def _without_parts(garment: Garment, faults: Sequence[Fault]) -> Garment:
    """Return the garment with zeros for its landmarks that have a fault, and without such polygons."""
    if not faults:
        return garment
    rows = {part: [fault.index for fault in faults if fault.part == part] for part in ("landmark", "polygon")}
    keypoints = garment.keypoints.copy()
    keypoints[rows["landmark"]] = 0
    polygons = [polygon for row, polygon in enumerate(garment.polygons) if row not in rows["polygon"]]
    return replace(garment, keypoints=keypoints, polygons=polygons)
