"""Statistics of columns against loops over photos and garments."""

from dataclasses import replace

import numpy as np
import pytest

from kgdet_d2.data.inspect import statistics
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo


@pytest.fixture
def photos(make_garment):
    """Random garments of all classes in photos of several sizes, landmarks of all three visibilities."""
    rng = np.random.default_rng(2)

    def garment():
        index = int(rng.integers(0, 13))
        keypoints = np.zeros((DEEPFASHION2.num_class_keypoints(index), 3), dtype=np.float32)
        if rng.random() < 0.8:
            keypoints[:, 2] = rng.integers(0, 3, len(keypoints))
        x, y, width, height = rng.integers((0, 0, 5, 5), (300, 300, 300, 400))
        box = np.array([x, y, x + width, y + height], dtype=np.float32)
        return make_garment(index, keypoints=keypoints, box=box)

    return [
        Photo(
            *(f"{number}.jpg", number, int(rng.integers(600, 603)), 700),
            [garment() for _ in range(rng.integers(0, 4))],
            {"source": str(rng.choice(["user", "shop"])), "pair_id": int(rng.integers(1, 9))},
        )
        for number in range(60)
    ]


@pytest.fixture
def annotations(photos):
    return AnnotationTable.from_photos(photos, DEEPFASHION2)


def test_overview(photos, annotations):
    garments = [garment for photo in photos for garment in photo.garments]
    v = np.concatenate([garment.keypoints[:, 2] for garment in garments])
    assert statistics.overview(annotations) == {
        "photos": 60,
        "photos without garments": sum(not photo.garments for photo in photos),
        "sizes of photos": len({(photo.width, photo.height) for photo in photos}),
        "pairs": len({photo.attributes["pair_id"] for photo in photos}),
        "garments": len(garments),
        "garments without a labelled landmark": sum(not g.keypoints[:, 2].any() for g in garments),
        "boxes without area": 0,
        "labelled landmarks": (v > 0).sum(),
        "occluded landmarks": (v == 1).sum(),
    }


def test_garments_per_photo(photos, annotations):
    rows = statistics.garments_per_photo(annotations)
    assert [row["garments"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        expected = sum(len(photo.garments) == row["garments"] for photo in photos)
        assert row["photos"] == expected and row["share"] == pytest.approx(expected / 60)


def test_classes(photos, annotations):
    garments = [garment for photo in photos for garment in photo.garments]
    rows = statistics.classes(annotations)
    assert [row["class"] for row in rows] == list(DEEPFASHION2.class_names)
    for index, row in enumerate(rows):
        own = [garment for garment in garments if garment.category_id == index]
        areas = [float(np.prod(garment.box[2:] - garment.box[:2])) for garment in own]
        v = np.concatenate([np.zeros(0), *(garment.keypoints[:, 2] for garment in own)])
        assert row["garments"] == len(own) and row["share"] == pytest.approx(len(own) / len(garments))
        assert row["no landmark"] == sum(not garment.keypoints[:, 2].any() for garment in own)
        assert row["small"] == sum(area < 1024 for area in areas)
        assert row["medium"] == sum(1024 <= area < 9216 for area in areas)
        assert row["large"] == sum(9216 <= area for area in areas)
        assert row["labelled"] == pytest.approx(np.mean(v > 0))
        assert [row[name] for name in ("absent", "occluded", "visible")] == pytest.approx(
            [np.mean(v == value) for value in range(3)]
        )


def test_landmarks(photos, annotations):
    garments = [garment for photo in photos for garment in photo.garments]
    rows = statistics.keypoints(annotations)
    assert len(rows) == 294
    assert [f"{row['class']}/{row['landmark']}" for row in rows] == list(DEEPFASHION2.slot_names)
    for row in rows:
        index = DEEPFASHION2.class_names.index(row["class"])
        v = [g.keypoints[row["number"] - 1, 2] for g in garments if g.category_id == index]
        assert row["garments"] == len(v)
        for value, name in enumerate(("absent", "occluded", "visible")):
            assert row[name] == pytest.approx(v.count(value) / len(v))


def test_sizes(photos, annotations):
    boxes = [(photo, *(g.box[2:] - g.box[:2]).tolist()) for photo in photos for g in photo.garments]
    expected = {
        "photo width": [photo.width for photo in photos],
        "box height": [height for _, _, height in boxes],
        "box sqrt(area)": [(width * height) ** 0.5 for _, width, height in boxes],
        "box width / photo width": [width / photo.width for photo, width, _ in boxes],
        "box height / photo height": [height / photo.height for photo, _, height in boxes],
        "box width / height": [width / height for _, width, height in boxes],
    }
    rows = {row[""]: row for row in statistics.sizes(annotations)}
    for name, values in expected.items():
        found = [rows[name][f"{share}%"] for share in (0, 5, 50, 95, 100)]
        assert found == pytest.approx(np.percentile(values, (0, 5, 50, 95, 100)).tolist())


def test_attributes(photos, annotations):
    rows = statistics.attributes(annotations)
    assert {row["attribute"] for row in rows} == {
        *("source", "item", "style", "scale", "occlusion", "zoom_in", "viewpoint")
    }
    for row in rows:
        objects = photos if row["of"] == "photo" else [g for photo in photos for g in photo.garments]
        values = [str(each.attributes[row["attribute"]]) for each in objects]
        assert row["count"] == values.count(row["value"])
        assert row["share"] == pytest.approx(row["count"] / len(values))


def test_rare_values_of_an_attribute_are_put_together(annotations):
    style = np.repeat(np.arange(30), 1 + np.arange(30))[: len(annotations.category_id)]
    style = np.pad(style, (0, len(annotations.category_id) - len(style)), constant_values=29)
    rows = statistics.attributes(replace(annotations, garment_attributes={"style": style}))
    rows = [row for row in rows if row["attribute"] == "style"]
    assert len(rows) == statistics.MOST_VALUES and rows[-1]["value"].endswith(" others")
    assert sum(row["count"] for row in rows) == len(style)
    rarest = min(row["count"] for row in rows[:-1])
    listed = {row["value"] for row in rows}
    assert all((style == int(value)).sum() <= rarest for value in set(map(str, style)) - listed)


def test_levels(annotations):
    level = np.arange(len(annotations.category_id)) % 3
    rows = statistics.levels(annotations, level, ["p3", "p4", "p5"])
    assert [row["class"] for row in rows] == [*DEEPFASHION2.class_names, "all"]
    for index, row in enumerate(rows[:-1]):
        own = level[annotations.category_id == index]
        assert [row["p3"], row["p4"], row["p5"]] == [(own == value).sum() for value in range(3)]
    assert sum(rows[-1][name] for name in ("p3", "p4", "p5")) == len(level)


def test_boxes_without_area_are_counted_and_have_no_form(annotations):
    box = annotations.box.copy()
    box[:3, 3] = box[:3, 1]
    changed = replace(annotations, box=box)
    assert statistics.overview(changed)["boxes without area"] == 3
    assert all(np.isfinite(list(row.values())[1:]).all() for row in statistics.sizes(changed))
    everything = statistics.levels(changed, np.zeros(len(box), dtype=np.int64), ["p5"])[-1]
    assert everything["p5"] == len(box) - 3


@pytest.mark.parametrize("schema", [DEEPFASHION2, FLD], ids=["deepfashion2", "fld"])
@pytest.mark.parametrize("photos", [[], [Photo("1.jpg", 1, 9, 9, [])]], ids=["nothing", "no garment"])
def test_empty_datasets(photos, schema):
    annotations = AnnotationTable.from_photos(photos, schema)
    assert statistics.overview(annotations)["garments"] == 0
    assert sum(row["photos"] for row in statistics.garments_per_photo(annotations)) == len(photos)
    for row in statistics.classes(annotations):
        assert row["garments"] == 0 and row["share"] is None and row["labelled"] is None
    assert all(row["visible"] is None for row in statistics.keypoints(annotations))
    assert statistics.sizes(annotations)[-1]["50%"] is None
    assert statistics.attributes(annotations) == []
    assert statistics.levels(annotations, np.zeros(0, dtype=np.int64), ["p5"])[-1] == {
        "class": "all",
        "p5": 0,
    }


def test_classes_that_share_slots_are_counted_apart():
    """FLD: hem_left is landmark 5 of upper, 3 of lower, 7 of full, and one slot."""
    photos = []
    for index, v in enumerate((2, 1, 0)):
        keypoints = np.zeros((FLD.num_class_keypoints(index), 3), dtype=np.float32)
        keypoints[FLD.keypoint_names[index].index("hem_left"), 2] = v
        photos.append(
            Photo(f"{index}.jpg", index, 9, 9, [Garment(index, np.float32([0, 0, 9, 9]), keypoints)])
        )
    annotations = AnnotationTable.from_photos(photos, FLD)
    rows = [row for row in statistics.keypoints(annotations) if row["landmark"] == "hem_left"]
    found = [(row["number"], row["visible"], row["occluded"], row["absent"]) for row in rows]
    assert found == [(5, 1, 0, 0), (3, 0, 1, 0), (7, 0, 0, 1)]
    assert [row["no landmark"] for row in statistics.classes(annotations)] == [0, 0, 1]
    assert "pairs" not in statistics.overview(annotations)
