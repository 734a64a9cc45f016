"""Photos and garments of COCO files: what is kept, and every problem that is reported."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools import mask as mask_util

from kgdet_d2.data.convert.coco_photos import PhotoFolder
from kgdet_d2.data.convert.records import REGION
from tests.helpers.own_coco import SHIRT, SIZE, SKIRT, assert_same, keypoints

SHIRTS, SKIRTS = 0, 1  # class indices


def garments_of(table, image_id):
    (row,) = np.flatnonzero(table.image_id == image_id)
    return slice(*table.garment_offsets[row : row + 2])


# --- what is kept ---


def test_all_columns(coco):
    table = coco.prepare()
    assert table.file_name.tolist() == ["a.jpg", "sub/b c.jpg", "d.jpg"]
    assert table.image_id.tolist() == [3, 40, 500]
    assert (table.width.tolist(), table.height.tolist()) == (3 * [SIZE[0]], 3 * [SIZE[1]])
    assert table.garment_offsets.tolist() == [0, 3, 5, 5]
    assert table.category_id.tolist() == [SHIRTS, SKIRTS, SHIRTS, SKIRTS, SHIRTS]
    assert table.box.tolist() == 5 * [[5.5, 6, 45.5, 36.25]]
    expected = [number for key in (SHIRT, SKIRT, SHIRT, SKIRT, SHIRT) for number in keypoints(key)]
    assert table.keypoints.ravel().tolist() == expected
    assert table.vertices[:3].tolist() == [[5.5, 6], [45.5, 6], [45.5, 36.25]] and len(table.vertices) == 15
    assert not table.iscrowd.any()
    assert not table.photo_attributes and not table.garment_attributes
    assert coco.report() == []


def test_numbers_in_every_writing_are_the_same(coco):
    expected = coco.prepare()
    for entry in (*coco.images, *coco.annotations):
        for name in entry.keys() & {"width", "height", "iscrowd"}:
            entry[name] = str(entry[name]) if entry["id"] % 2 else float(entry[name])
    for entry in coco.annotations:
        entry["keypoints"] = list(map(float, entry["keypoints"]))
    assert_same(coco.prepare(), expected)


def test_several_processes_read_the_same(coco):
    expected = coco.prepare()
    assert_same(coco.prepare("--workers", "2"), expected)


def test_landmarks_of_a_file_that_has_them_in_another_order(coco):
    expected = coco.prepare()
    content = json.loads(coco.write().read_text())
    content["categories"][1]["keypoints"].reverse()
    for number, category in enumerate(reversed(content["categories"]), 1):
        category["id"], old = number, category["id"]
        for entry in content["annotations"]:
            if entry["category_id"] == old:
                entry["category_id"] = -number
    for entry in content["annotations"]:
        entry["category_id"] *= -1
        if len(entry["keypoints"]) == 12:
            entry["keypoints"] = np.reshape(entry["keypoints"], (4, 3))[::-1].ravel().tolist()
    coco.write("val.json", content)
    coco.prepare("--val-json", coco.root / "val.json")
    assert_same(coco.load("validation"), expected)


def test_what_is_not_labelled(coco):
    first, second, third = coco.annotations[:3]
    del first["keypoints"]
    second["keypoints"] = []
    third["keypoints"][:3] = [-1e9, None, 0]  # whatever stands where v is 0 ...
    third["keypoints"][1] = 99.5  # ... but numbers it must be
    table = coco.prepare()
    assert not table.keypoints[:7].any()
    assert table.keypoints[7].tolist() == [0, 0, 0] and table.keypoints[8].tolist() == keypoints(SHIRT)[3:6]
    assert coco.report() == []


def test_crowds_are_regions(coco):
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[10:30, 8:40] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    coco.annotations[0] |= {
        "iscrowd": 1,
        "keypoints": [1, 2],
        "segmentation": {**rle, "counts": rle["counts"].decode()},
    }
    table = coco.prepare()
    assert table.iscrowd.tolist() == [True, False, False, False, False]
    assert not table.keypoints[:4].any() and coco.report() == []


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_become_polygons(coco, compressed):
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[10:30, 8:40] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    pixels = mask.ravel(order="F")
    runs = np.diff([0, *np.flatnonzero(np.diff(pixels)) + 1, len(pixels)]).tolist()
    counts = rle["counts"].decode() if compressed else runs
    coco.annotations[0]["segmentation"] = {"size": rle["size"], "counts": counts}
    table = coco.prepare()
    polygon = table.vertices[: table.vertex_offsets[1]]
    back = mask_util.decode(mask_util.frPyObjects([polygon.ravel().tolist()], *SIZE[::-1])[0])
    assert (back != mask).sum() < 2 * (20 + 32)  # within half a pixel
    assert coco.report() == []


def test_a_polygon_that_is_not_in_a_list(coco):
    expected = coco.prepare()
    coco.annotations[0]["segmentation"] = coco.annotations[0]["segmentation"][0]
    assert_same(coco.prepare(), expected)


def test_further_fields_are_attributes(coco):
    for number, image in enumerate(coco.images):
        image |= {"pair_id": number, "license": 1, "note": None, "extra": {"a": 1}, "annotations": 4}
    for number, entry in enumerate(coco.annotations):
        entry |= {"style": "ab"[number % 2], "mixed": [1, "a"][number % 2], "large": 2**64, "sure": True}
    coco.annotations[2]["fabric"] = 7
    table = coco.prepare()
    assert {name: column.tolist() for name, column in table.photo_attributes.items()} == {
        "pair_id": [0, 1, 2]
    }
    assert {name: column.tolist() for name, column in table.garment_attributes.items()} == {
        "style": list("ababa"),
        "fabric": [0, 0, 7, 0, 0],
    }
    (row,) = coco.report()
    assert (row["lost"], row["reason"]) == ("attribute", "fabric is missing in 4 of 5 garments")


# --- names of photos ---


@pytest.mark.parametrize(
    ("written", "on_disk"),
    [
        ("sub/b c.jpg", "sub/b c.jpg"),
        ("sub\\b c.jpg", "sub/b c.jpg"),
        ("./sub//b c.jpg", "sub/b c.jpg"),
        ("back\\slash.jpg", "back\\slash.jpg"),
        *(
            (
                unicodedata.normalize(written, "Größe/Räder é.jpg"),
                unicodedata.normalize(disk, "Größe/Räder é.jpg"),
            )
            for written in ("NFC", "NFD")
            for disk in ("NFC", "NFD")
        ),
    ],
)
def test_photos_are_found(coco, written, on_disk):
    coco.add_photo(on_disk)
    assert PhotoFolder(coco.root / "photos").find(written) == on_disk


def test_a_full_path_is_a_photo(coco, tmp_path):
    path = coco.add_photo("e.jpg")
    assert PhotoFolder(coco.root).find(str(path)) == str(path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("C:\\Users\\me\\photos\\sub\\b c.jpg", "sub/b c.jpg"),
        ("/home/me/sub/a.jpg", "a.jpg"),
        ("\\\\server\\share\\d.jpg", "d.jpg"),
        ("/home/me/no.jpg", None),
        ("elsewhere/a.jpg", None),  # what is no full path is all of it
    ],
)
def test_full_paths_of_another_machine(coco, name, found):
    assert PhotoFolder(coco.root / "photos").find(name) == found


@pytest.mark.parametrize(
    "name", ["", ".", "sub", "no.jpg", "sub/no.jpg", "a.jpg/x", "C:\\no.jpg", "\0", "x" * 5_000, "\ud800"]
)
def test_photos_that_are_not_there(coco, name):
    assert PhotoFolder(coco.root / "photos").find(name) is None


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no: there is no such folder of photos"):
        PhotoFolder(tmp_path / "no")


@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_are_those_of_the_upright_photo(coco, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    coco.add_photo("a.jpg", exif=exif)
    table = coco.prepare()
    if orientation == 1:
        assert coco.report() == []
    else:
        assert (table.width[0], table.height[0]) == SIZE[::-1]
        assert coco.report()[0]["reason"] == (
            "width, height: expected those of the photo, which its EXIF data turn, got 64 x 48; those of the "
            "photo are taken, 48 x 64"
        )


# --- problems ---


def set_image(**values):
    return lambda coco: coco.images[0].update(values)


def set_garment(**values):
    return lambda coco: coco.annotations[1].update(values)


def remove(where, name):
    return lambda coco: getattr(coco, where)[where == "annotations"].pop(name)


def set_number(place, value):
    return lambda coco: coco.annotations[1]["keypoints"].__setitem__(place, value)


def damage(coco):
    path = coco.root / "photos/a.jpg"
    path.write_bytes(path.read_bytes()[:-2])


def no_image(coco):
    (coco.root / "photos/a.jpg").write_text("no")


def again(**changes):
    return lambda coco: coco.annotations.append({**coco.annotations[1], **changes})


G, P = "image 3, annotation 12", "image 3"  # the items of the garment and of the photo that have the faults
PROBLEMS = {
    # name: (edit, item, kind, lost, garments and regions left in photo 3, or None where it is left out)
    "visibility 3": (set_number(2, 3), G, "visibility", REGION, (2, 1)),
    "visibility 0.9": (set_number(2, 0.9), G, "visibility", REGION, (2, 1)),
    "visibility -1": (set_number(5, -1), G, "visibility", REGION, (2, 1)),
    "null": (set_number(0, None), G, "wrong type", REGION, (2, 1)),
    "text": (set_number(0, "a"), G, "wrong type", REGION, (2, 1)),
    "nan": (set_number(0, float("nan")), G, "number not finite or too large", REGION, (2, 1)),
    "infinity": (set_number(0, float("inf")), G, "number not finite or too large", REGION, (2, 1)),
    "huge": (set_number(0, 10**400), G, "number not finite or too large", REGION, (2, 1)),
    "too few": (set_garment(keypoints=[1, 2, 2]), G, "landmark count", REGION, (2, 1)),
    "too many": (set_garment(keypoints=4 * [1, 2, 2]), G, "landmark count", REGION, (2, 1)),
    "no triples": (set_garment(keypoints=[1, 2]), G, "landmark count", REGION, (2, 1)),
    "no list": (set_garment(keypoints={"a": 1}), G, "wrong type", REGION, (2, 1)),
    "far landmark": (set_number(0, 75), G, "landmark far outside the photo", "landmark", (3, 0)),
    "box outside": (set_garment(bbox=[70, 6, 5, 5]), G, "box outside the photo", "photo", None),
    "no area": (set_garment(bbox=[5, 6, 0, 5]), G, "box without area", "photo", None),
    "box nan": (
        set_garment(bbox=[5, float("nan"), 3, 5]),
        G,
        "number not finite or too large",
        "photo",
        None,
    ),
    "box null": (set_garment(bbox=None), G, "wrong type", "photo", None),
    "box of 3": (set_garment(bbox=[1, 2, 3]), G, "wrong length", "photo", None),
    "box missing": (remove("annotations", "bbox"), G, "field missing", "photo", None),
    "iscrowd": (set_garment(iscrowd="maybe"), G, "wrong type", REGION, (2, 1)),
    "unknown category": (set_garment(category_id=99), G, "unknown category", "photo", None),
    "category of none": (set_garment(category_id=None), G, "wrong type", "photo", None),
    "category missing": (remove("annotations", "category_id"), G, "field missing", "photo", None),
    "unknown image": (
        again(image_id=98, id=20),
        "image 98, annotation 20",
        "unknown image",
        "garment",
        (3, 0),
    ),
    "image null": (again(image_id=None), "annotations[5]", "wrong type", "garment", (3, 0)),
    "annotation null": (
        lambda coco: coco.annotations.append(None),
        "annotations[5]",
        "wrong type",
        "garment",
        (3, 0),
    ),
    "annotation twice": (again(), G, "annotation id occurs twice", "nothing", (3, 0)),
    "another of its id": (again(bbox=[1, 1, 9, 9]), G, "annotation id occurs twice", "nothing", (4, 0)),
    "two points": (set_garment(segmentation=[[1, 2, 3, 4]]), G, "polygon", "polygon", (3, 0)),
    "odd polygon": (set_garment(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), G, "polygon", "polygon", (3, 0)),
    "polygon null": (
        set_garment(segmentation=[[1, 2, None, 4, 5, 6]]),
        G,
        "number not finite or too large",
        "polygon",
        (3, 0),
    ),
    "mask of another": (
        set_garment(segmentation={"size": [9, 9], "counts": [81]}),
        G,
        "polygon",
        "polygon",
        (3, 0),
    ),
    "mask of none": (set_garment(segmentation={"counts": 7}), G, "polygon", "polygon", (3, 0)),
    "huge polygon": (set_garment(segmentation=[[1, 2, 10**400, 4, 5, 6]]), G, "polygon", "polygon", (3, 0)),
    "segmentation": (set_garment(segmentation="abc"), G, "polygon", "polygon", (3, 0)),
    "photo missing": (set_image(file_name="no.jpg"), P, "image missing", "photo", None),
    "photo cut off": (damage, P, "image truncated", "photo", None),
    "no photo": (no_image, P, "not an image", "photo", None),
    "name missing": (remove("images", "file_name"), P, "field missing", "photo", None),
    "name null": (set_image(file_name=None), P, "wrong type", "photo", None),
    "width missing": (remove("images", "width"), P, "field missing", "nothing", (3, 0)),
    "width null": (set_image(width=None), P, "wrong type", "nothing", (3, 0)),
    "another size": (set_image(height=640), P, "size of another photo", "nothing", (3, 0)),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problems_are_reported_with_both_ids(coco, case):
    edit, item, kind, lost, left = PROBLEMS[case]
    edit(coco)
    table = coco.prepare()
    (row,) = coco.report()
    assert (row["path"], row["item"]) == (str(coco.root / "train.json"), item)
    assert (row["kind"], row["lost"]) == (kind, lost) and row["reason"]
    if left is None:
        assert 3 not in table.image_id
    else:
        crowd = table.iscrowd[garments_of(table, 3)]
        assert ((~crowd).sum(), crowd.sum()) == left


def test_the_far_landmark_alone_is_not_labelled(coco):
    set_number(0, 75)(coco)
    table = coco.prepare()
    assert table.keypoints[4].tolist() == [0, 0, 0] and (table.keypoints[5:7, 2] == 2).all()


def test_an_image_listed_twice_is_one_photo(coco):
    expected = coco.prepare()
    coco.images.append({**coco.images[0], "id": "3"})
    assert_same(coco.prepare(), expected)
    (row,) = coco.report()
    assert (row["item"], row["kind"], row["lost"]) == (P, "image id occurs twice", "nothing")


def test_two_photos_of_one_id_are_left_out(coco):
    coco.images.append({**coco.images[2], "id": 3})
    assert coco.prepare().image_id.tolist() == [40, 500]
    (row,) = coco.report()
    assert (row["item"], row["kind"], row["lost"]) == (P, "image id occurs twice", "photo")


def test_a_photo_under_two_ids_is_left_out(coco):
    coco.images[2]["file_name"] = "./a.jpg"
    assert coco.prepare().image_id.tolist() == [40]
    assert [(row["item"], row["kind"], row["lost"]) for row in coco.report()] == [
        (item, "photo listed twice", "photo") for item in (P, "image 500")
    ]


def test_an_image_without_an_id(coco):
    del coco.images[2]["id"]
    assert len(coco.prepare()) == 2
    (row,) = coco.report()
    assert (row["item"], row["kind"], row["lost"]) == ("images[2]", "field missing", "photo")


def fail(coco, capsys, *arguments):
    """The one line of a command that fails and writes nothing."""
    coco.write()
    assert coco.run(*arguments) == 1
    assert not (coco.root / "mine").exists()
    return capsys.readouterr().err.splitlines()[-1]


def test_a_class_that_loses_most_of_its_garments_to_faults_is_an_error(coco, capsys):
    for entry in coco.annotations:
        if entry["category_id"] == SHIRT:
            entry["keypoints"] = entry["keypoints"][:9]
    line = fail(coco, capsys)
    assert "train.json: class 'T-Shirt': 3 of 3 garments cannot be used" in line and "annotation 11" in line


def test_a_class_that_loses_most_of_its_garments_with_photos_is_an_error(coco, capsys):
    coco.annotations[4]["image_id"] = 3
    coco.images[0]["file_name"] = "no.jpg"
    line = fail(coco, capsys)
    assert "class 'T-Shirt': 3 of 3 garments cannot be used, 3 of them because of 'image missing'" in line
    assert "there is no such photo" in line


def test_no_usable_photo_is_an_error(coco, capsys):
    for image in coco.images:
        image["file_name"] = "elsewhere/" + image["file_name"]
    line = fail(coco, capsys)
    assert (
        "none of its 3 photos can be used" in line
        and "photos/elsewhere/a.jpg: there is no such photo" in line
    )


def test_photos_one_folder_above_are_pointed_to(coco, capsys):
    for image in coco.images:
        image["file_name"] = "photos/" + image["file_name"]
    assert fail(coco, capsys).endswith(f", but {coco.root}/photos/a.jpg is one: try --images {coco.root}")


def test_no_photo_is_an_error(coco, capsys):
    coco.content |= {"images": [], "annotations": []}
    assert "train.json: none of its 0 photos can be used" in fail(coco, capsys)


@pytest.mark.parametrize("case", ["visibility 3", "another of its id", "photo missing", "width missing"])
def test_strict_stops_at_the_first_problem(coco, capsys, case):
    PROBLEMS[case][0](coco)
    assert fail(coco, capsys, "--strict").startswith(f"error: {coco.root}/train.json: image 3")


def test_an_entry_that_no_other_process_takes(coco, capsys):
    deep = []
    for _ in range(900):
        deep = [deep]
    coco.annotations[0]["attributes"] = deep
    line = fail(coco, capsys, "--workers", "2")
    assert line.startswith(f"error: {coco.root}/train.json: an entry is nested too deeply: ")
