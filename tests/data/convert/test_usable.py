"""What becomes of garments that cannot be used, and of their photos."""

from pathlib import Path

import numpy as np
import pytest

from kgdet_d2.data.convert.records import REGION, GarmentRecord, PhotoRecord, RecordError, RecordIssue
from kgdet_d2.data.convert.usable import usable_photos
from kgdet_d2.schema import FLD

LOWER = FLD.class_names.index("lower")
NAMES = {"bbox": "bounding_box", "keypoints": "landmarks"}
BOX, LANDMARKS, POLYGON = [10, 5, 40, 45], [[20, 10, 2]] * 4, [[1, 2], [3, 4], [5, 6]]
ERROR = RecordError("field missing", "landmarks is missing")


def garment(item="item1", **replaced):
    values = {"category_id": LOWER, "box": BOX, "keypoints": LANDMARKS, "polygons": [POLYGON]} | replaced
    for name, shape in {"box": 4, "keypoints": (-1, 3)}.items():
        if values[name] is not None:
            values[name] = np.array(values[name], np.float32).reshape(shape)
    values["polygons"] = [np.array(polygon, np.float32).reshape(-1, 2) for polygon in values["polygons"]]
    return GarmentRecord(item=item, **values)


def photo(number, *garments, **replaced):
    values = {"file_name": f"{number}.jpg", "image_id": number, "width": 100, "height": 50}
    return PhotoRecord(path=Path(f"{number}.json"), garments=garments, **values | replaced)


def select(*results):
    """Of photos, or of whole results."""
    pairs = [result if isinstance(result, tuple) else (result, []) for result in results]
    return usable_photos(pairs, FLD, NAMES)


def told(problems):
    return [(str(problem.path), problem.item, problem.dropped, problem.kind) for problem in problems]


def test_what_is_right_stays_as_it_is():
    photos, problems, _ = select(photo(1, garment(attributes={"style": 3})), photo(2), photo(3, garment()))
    assert problems == [] and [each.image_id for each in photos] == [1, 2, 3]
    (found,) = photos[0].garments
    assert (found.category_id, found.iscrowd, found.attributes) == (LOWER, False, {"style": 3})
    assert found.box.tolist() == BOX and found.keypoints.tolist() == LANDMARKS
    assert found.polygons[0].tolist() == POLYGON


@pytest.mark.parametrize(
    ("replaced", "kind", "reason"),
    [
        ({"error": ERROR, "keypoints": None}, "field missing", "landmarks is missing"),
        ({"error": ERROR}, "field missing", "landmarks is missing"),
        ({"keypoints": [[20, 10, 2]] * 6}, "landmark count", "landmarks: expected 12 numbers"),
        ({"keypoints": [[20, 10, 3]] * 4}, "visibility", "landmarks: expected visibility 0, 1 or 2, got 3"),
        ({"keypoints": [[1, np.nan, 2]] * 4}, "number not finite or too large", "landmarks: expected finite"),
    ],
)
def test_a_garment_of_known_class_and_box_becomes_a_region(replaced, kind, reason):
    wrong = garment("item2", attributes={"style": 3}, **replaced)
    (found,), (problem,), _ = select(photo(1, garment("item1"), wrong))
    kept, region = found.garments
    assert not kept.iscrowd and kept.keypoints.tolist() == LANDMARKS
    assert region.iscrowd and region.category_id == LOWER and region.box.tolist() == BOX
    assert region.keypoints.tolist() == [[0, 0, 0]] * 4
    assert len(region.polygons) == len(region.attributes) == 0
    assert told([problem]) == [("1.json", "item2", REGION, kind)] and problem.reason.startswith(reason)


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"error": ERROR, "category_id": -1, "box": None}, "landmarks is missing"),
        ({"error": ERROR, "box": None}, "landmarks is missing"),
        ({"error": ERROR, "box": [10, 5, 10, 45]}, "landmarks is missing"),
        ({"box": [10, 5, 10, 45]}, "bounding_box: expected x1 < x2"),
        ({"box": [200, 5, 210, 45]}, "bounding_box: expected a part in the photo"),
        ({"box": [np.nan, 5, 10, 45]}, "bounding_box: expected finite"),
        ({"category_id": 3, "keypoints": None}, "category_id: expected 0..2, got 3"),
    ],
)
def test_otherwise_its_photo_is_left_out(replaced, reason):
    bad = photo(2, garment(), garment("item2", **replaced), garment("item3", polygons=[[]]))
    issue = RecordIssue(Path("2.json"), "", "attribute", "wrong type", "source: expected str")
    photos, problems, _ = select(photo(1, garment()), (bad, [issue]), photo(3, garment()))
    assert [each.image_id for each in photos] == [1, 3]
    assert [problem.item for problem in problems] == ["", "item2", "item3"]
    assert {problem.dropped for problem in problems} == {"photo"} and problems[1].reason.startswith(reason)


def test_landmarks_and_polygons_are_left_out_alone():
    landmarks = [[20, 10, 2], [500, 10, 1], [30, 40, 1], [20, 500, 2]]
    record = garment(keypoints=landmarks, polygons=[[], POLYGON, POLYGON[:2]])
    (found,), problems, tally = select(photo(1, record))
    assert found.garments[0].keypoints.tolist() == [landmarks[0], [0, 0, 0], landmarks[2], [0, 0, 0]]
    assert [polygon.tolist() for polygon in found.garments[0].polygons] == [POLYGON]
    assert [problem.dropped for problem in problems] == ["landmark"] * 2 + ["polygon"] * 2
    assert problems[0].reason.startswith("landmarks: landmark 2: expected at most 10 pixels")
    assert record.keypoints.tolist() == landmarks and tally.used[LOWER] == 1


def test_a_garment_without_landmarks_and_a_region_stay():
    bare, region = garment(keypoints=None), garment(keypoints=None, iscrowd=True)
    (found,), problems, tally = select(photo(1, bare, region))
    assert problems == [] and [each.iscrowd for each in found.garments] == [False, True]
    assert [each.keypoints.tolist() for each in found.garments] == [[[0, 0, 0]] * 4] * 2
    assert tally.used == {LOWER: 1}


def test_the_file_of_a_field_is_told():
    paths = {"bbox": Path("boxes.txt")}
    error = RecordError("wrong length", "box: expected 4 numbers, got 3", Path("boxes.txt"))
    bad = [garment(box=[1, 1, 1, 1], paths=paths), garment(keypoints=[], paths=paths), garment(error=error)]
    _, problems, _ = select(*(photo(number, each) for number, each in enumerate(bad)))
    assert [str(problem.path) for problem in problems] == ["boxes.txt", "1.json", "boxes.txt"]


def test_photos_with_faults_of_their_own():
    photos, problems, _ = select(photo(1), photo(2, width=0), photo(1, garment(), file_name="again.jpg"))
    assert [each.file_name for each in photos] == ["1.jpg"]
    assert told(problems) == [
        ("2.json", "", "photo", "photo without size"),
        ("1.json", "", "photo", "image id occurs twice"),
    ]


def test_problems_of_a_reader_come_in_their_places():
    issues = [RecordIssue(Path(f"{n}.json"), "", "photo", "bad", "for the test") for n in range(2)]
    photos, problems, _ = select((None, issues[:1]), photo(5, garment(keypoints=[])), (None, issues[1:]))
    assert [each.image_id for each in photos] == [5]
    assert [str(problem.path) for problem in problems] == ["0.json", "5.json", "1.json"]
    assert select() == ([], [], select()[2])


@pytest.mark.parametrize(
    ("lost", "used", "fails"), [(2, 0, False), (3, 3, False), (3, 2, True), (4, 0, True), (30, 31, False)]
)
def test_a_class_that_loses_most_of_its_garments_is_an_error(lost, used, fails):
    bad = [photo(number, garment(keypoints=[[1, 1, 3]] * 4)) for number in range(lost - 1)]
    bad.append(photo(99, garment(box=None, error=RecordError("name", "for the test"))))
    other = garment(category_id=0, keypoints=None)
    good = [photo(number, garment(), other) for number in range(100, 100 + used)]
    *_, tally = select(*bad)
    tally.add(select(*good)[2])
    if not fails:
        tally.check_losses(Path("train"), FLD)
        return
    with pytest.raises(ValueError) as error:
        tally.check_losses(Path("train"), FLD)
    assert str(error.value) == (
        f"train: class 'lower': {lost} of {lost + used} garments cannot be used, {lost - 1} of them because "
        "of 'visibility'; the first is 0.json: item1: landmarks: expected visibility 0, 1 or 2, got 3.0"
    )


def test_attributes_that_some_lack_are_told_once():
    with_style, without = garment(attributes={"style": 1, "scale": 2}), garment(attributes={"scale": 3})
    region = garment(keypoints=[])
    second = photo(2, without, attributes={"source": "shop"})
    *_, tally = select(photo(1, with_style, without, region), second)
    issues = tally.missing_attributes(Path("train"))
    assert told(issues) == [("train", "", "attribute", "field missing")] * 2
    assert {issue.reason for issue in issues} == {
        "source is missing in 1 of 2 photos",
        "style is missing in 2 of 3 garments",
    }
    assert select(photo(1, without))[2].missing_attributes(Path("train")) == []
