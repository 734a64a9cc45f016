"""AnnotationTable from photos, its file and its checks."""

from dataclasses import fields, replace

import numpy as np
import pytest

from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures._columns import stored_name
from kgdet_d2.structures.annotations import AnnotationTable, Photo, item_ids

ATTRIBUTES = ("photo_attributes", "garment_attributes")
COLUMNS = [field.name for field in fields(AnnotationTable) if field.name not in ("schema", *ATTRIBUTES)]


@pytest.fixture
def file(annotations, tmp_path):
    annotations.save(tmp_path / "annotations" / "train.npz")
    return tmp_path / "annotations" / "train.npz"


def test_a_saved_file_loads_exactly(annotations, file):
    loaded = AnnotationTable.load(file, DEEPFASHION2)
    assert len(loaded) == len(annotations) == 4
    for name in COLUMNS:
        column, expected = getattr(loaded, name), getattr(annotations, name)
        assert column.dtype == expected.dtype and np.array_equal(column, expected), name
    for kind in ATTRIBUTES:
        columns, expected = getattr(loaded, kind), getattr(annotations, kind)
        assert {name: array.tolist() for name, array in columns.items()} == {
            name: array.tolist() for name, array in expected.items()
        }
    assert loaded.photo_attributes["source"].tolist() == ["user", "shop", "user", ""]
    assert [path.name for path in file.parent.iterdir()] == ["train.npz"]


def test_nothing_at_all_can_be_saved_and_loaded(tmp_path):
    AnnotationTable.from_photos([], DEEPFASHION2).save(tmp_path / "empty.npz")
    assert len(AnnotationTable.load(tmp_path / "empty.npz", DEEPFASHION2)) == 0


def test_attributes_are_optional(photos, make_garment):
    bare = [Photo("1.jpg", 1, 64, 48, [make_garment(8, attributes={})])]
    annotations = AnnotationTable.from_photos(bare, DEEPFASHION2)
    assert annotations.photo_attributes == annotations.garment_attributes == {}
    some = AnnotationTable.from_photos([*photos[1:], *bare], DEEPFASHION2)
    assert some.photo_attributes["source"].tolist() == ["shop", "user", "", ""]
    assert some.photo_attributes["pair_id"].tolist() == [7, 7, 7, 0]
    assert {name: column[-1] for name, column in some.garment_attributes.items()} == dict.fromkeys(
        ("item", "style", "scale", "occlusion", "zoom_in", "viewpoint"), 0
    )


def test_crowds_are_stored_where_there_are_any(annotations, file):
    assert annotations.iscrowd.dtype == bool and not annotations.iscrowd.any()
    with np.load(file) as archive:
        assert "iscrowd" not in archive
    assert AnnotationTable.load(file, DEEPFASHION2).iscrowd.tolist() == [False] * 15
    crowds = np.arange(15) % 4 == 1
    replace(annotations, iscrowd=crowds).save(file)
    assert AnnotationTable.load(file, DEEPFASHION2).iscrowd.tolist() == crowds.tolist()


@pytest.mark.parametrize(
    ("name", "place", "value", "fault"),
    [
        ("box", (1, 0), np.nan, "garment 2: bbox: expected finite"),
        ("box", (1, 0), 64, "garment 2: bbox: expected x1 < x2"),  # let in, below
        ("box", (1, slice(None)), (64, 5, 70, 9), "garment 2: bbox: expected a part in the photo of 64 x 48"),
        ("landmarks", (0, 1), np.inf, "garment 1: keypoints: expected finite"),
        ("landmarks", (0, 2), 0.9, "garment 1: keypoints: expected visibility 0, 1 or 2, got 0.9"),
        ("landmarks", (1, 0), 100, "garment 1: keypoints: landmark 2: expected at most 6.4 pixels outside"),
        ("vertices", (0, 1), np.nan, "garment 1: segmentation: polygon 1: expected finite"),
        ("category_id", 1, 13, r"garment 2: category_id: expected 0\.\.12, got 13"),
        ("category_id", 1, 7, "garment 2: keypoints: expected 42 numbers.* got 99"),
    ],
)
def test_a_file_with_a_wrong_value_is_refused(file, name, place, value, fault):
    with np.load(file) as archive:
        column = archive[name]
    column[place] = value
    _rewrite(file, **{name: column})
    if "x1 < x2" in fault:
        assert not AnnotationTable.load(file, DEEPFASHION2).has_area[1]
        return
    with pytest.raises(ValueError, match=rf"train\.npz: .*: image 1 \(000001\.png\), {fault}"):
        AnnotationTable.load(file, DEEPFASHION2)


def test_an_error_counts_the_faults(annotations):
    box = annotations.box.copy()
    box[:3, 1] = np.nan
    with pytest.raises(ValueError, match=r"garment 1: bbox: .*; 2 more faults$"):
        replace(annotations, box=box)


def test_selected_garments_are_those_of_photos_that_have_no_others(photos):
    rng = np.random.default_rng(0)
    for share in (0, 0.5, 1):
        keep = rng.random(15) < share
        kept, left = iter(keep), []
        for photo in photos:
            left.append(replace(photo, garments=[garment for garment in photo.garments if next(kept)]))
        found = AnnotationTable.from_photos(photos, DEEPFASHION2).select_garments(keep)
        expected = AnnotationTable.from_photos(left, DEEPFASHION2)
        for name in COLUMNS:
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name
        for name, column in found.garment_attributes.items():
            assert column.tolist() == expected.garment_attributes.get(name, np.zeros(0)).tolist()
        assert found.photo_attributes.keys() == expected.photo_attributes.keys()


def test_garments_whose_box_has_no_area(make_garment):
    boxes = [(3, 5, 3, 40), (3, 5, 60, 40), (3, 40, 60, 5)]
    garments = [make_garment(8, box=np.array(box, np.float32)) for box in boxes]
    annotations = AnnotationTable.from_photos([Photo("1.jpg", 1, 64, 48, garments)], DEEPFASHION2)
    assert annotations.has_area.tolist() == [False, True, False]
    assert annotations.with_area().box.tolist() == [[3, 5, 60, 40]]
    assert annotations.with_area().with_area().num_garments == 1


def test_the_same_item_is_of_one_pair_and_style():
    pair_ids, styles = np.array([7, 7, 8, 7, 7, 7, 8]), np.array([1, 2, 1, 1, 0, 0, 1])
    items = item_ids(pair_ids, styles)
    assert (items == -1).tolist() == (styles == 0).tolist()
    assert items[0] == items[3] and items[2] == items[6] and len(set(items[styles > 0])) == 3
    assert item_ids(np.zeros(0, int), np.zeros(0, int)).tolist() == []
    assert item_ids(np.array([0, 0, 3]), np.array([1, 1, 1])).tolist()[:2] == [-1, -1]  # unknown pairs


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.npz.*Make it with: make it so"):
        AnnotationTable.load(tmp_path / "train.npz", DEEPFASHION2, prepare_command="make it so")


def test_another_schema_is_refused(file):
    with pytest.raises(ValueError, match=r"train\.npz.*schema: expected 'fld', got 'deepfashion2'"):
        AnnotationTable.load(file, FLD)


def test_another_version_is_refused(file):
    _rewrite(file, format_version=1)
    with pytest.raises(ValueError, match=r"train\.npz.*format_version: expected 2, got 1"):
        AnnotationTable.load(file, DEEPFASHION2)


def test_a_file_cut_off_anywhere_is_refused(file):
    content = file.read_bytes()
    for length in (0, 1, 30, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"train\.npz: not a usable annotation file: truncated"):
            AnnotationTable.load(file, DEEPFASHION2)


def test_a_file_with_a_damaged_byte_is_refused(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.npz: not a usable annotation file"):
        AnnotationTable.load(file, DEEPFASHION2)


@pytest.mark.parametrize("name", [stored_name(name) for name in COLUMNS if name != "iscrowd"])
def test_a_missing_column_is_named(file, name):
    _rewrite(file, **{name: None})
    with pytest.raises(ValueError, match=rf"train\.npz.*{name}"):
        AnnotationTable.load(file, DEEPFASHION2)


def test_pickled_columns_are_not_unpickled(file):
    _rewrite(file, **{"photo_attributes.source": np.array(["user", None], dtype=object)})
    with pytest.raises(ValueError, match=r"train\.npz.*allow_pickle"):
        AnnotationTable.load(file, DEEPFASHION2)


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "file_name"])
def test_columns_of_another_length_are_refused(annotations, name):
    with pytest.raises(ValueError, match="expected"):
        replace(annotations, **{name: getattr(annotations, name)[:-1]})


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_attributes_of_another_length_or_kind_are_refused(annotations, kind):
    name, column = next(iter(getattr(annotations, kind).items()))
    with pytest.raises(ValueError, match=rf"{name}: expected shape"):
        replace(annotations, **{kind: {name: column[:-1]}})
    with pytest.raises(ValueError, match=r"mine: expected integers or strings, got float64"):
        replace(annotations, **{kind: {"mine": np.zeros(len(column))}})


def test_contradictory_columns_are_refused(annotations):
    with pytest.raises(ValueError, match=r"category_id: expected 0\.\.12"):
        replace(annotations, category_id=np.full_like(annotations.category_id, 13))
    with pytest.raises(ValueError, match=r"keypoints: expected 99 numbers.* got 75; 1 more faults"):
        replace(annotations, category_id=np.r_[[1, 0], annotations.category_id[2:]].astype(np.int32))
    with pytest.raises(ValueError, match=r"image 0 \(000002.png\): image_id: it occurs twice; 2 more"):
        replace(annotations, image_id=np.zeros(4, dtype=np.int64))
    with pytest.raises(ValueError, match="box: expected float32, got float64"):
        replace(annotations, box=annotations.box.astype(np.float64))
    with pytest.raises(ValueError, match="garment_offsets: expected 0 first and no decrease"):
        replace(annotations, garment_offsets=annotations.garment_offsets[::-1])


def test_a_save_that_fails_leaves_what_was_there(annotations, tmp_path, monkeypatch):
    def fail(file, **columns):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        annotations.save(tmp_path / "train.npz")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "train.npz").write_text("before")
    with pytest.raises(OSError, match="disk full"):
        annotations.save(tmp_path / "train.npz")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def _rewrite(file, **changed):
    """Replace entries of a saved file; None removes."""
    with np.load(file) as archive:
        entries = {**archive, **changed}
    np.savez(file, allow_pickle=True, **{name: value for name, value in entries.items() if value is not None})
