"""Predictions from instances, their files, their COCO results and their checks."""

import math
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures import predictions as module
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions

COLUMNS = "image_id detection_offsets category_id score box keypoints wide_detection wide_keypoints".split()


@pytest.fixture(params=[DEEPFASHION2, FLD], ids=lambda schema: schema.name)
def scene(request, make_scene):
    return make_scene(np.random.default_rng(0), request.param, images=12)


@pytest.fixture
def parts(scene):
    truth = AnnotationTable.from_dataset_dicts(scene.records, scene.schema)
    return [
        Predictions.from_instances(
            output, image_id=record["image_id"], schema=scene.schema, wide_classes=wide_classes
        )
        for record, output, wide_classes in zip(
            scene.records, scene.outputs, truth.no_visible_by_class, strict=True
        )
    ]


@pytest.fixture
def whole(scene, parts):
    return Predictions.concatenate(parts, scene.schema)


def assert_equal(one, other):
    for name in COLUMNS:
        assert getattr(one, name).dtype == getattr(other, name).dtype, name
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_columns_hold_the_instances(scene, whole):
    assert whole.image_id.tolist() == [record["image_id"] for record in scene.records]
    assert np.diff(whole.detection_offsets).tolist() == [len(output) for output in scene.outputs]
    row = 0
    for index, output in enumerate(scene.outputs):
        for i in range(len(output)):
            class_index = int(output.pred_classes[i])
            assert whole.detection_image[row] == index
            assert whole.category_id[row] == class_index
            assert whole.score[row] == output.scores[i]
            assert whole.box[row].tolist() == output.pred_boxes.tensor[i].tolist()
            x1, y1, x2, y2 = output.pred_boxes.tensor[i]
            assert float(whole.area[row]) == float(x2 - x1) * float(y2 - y1)
            start, end = whole.keypoint_offsets[row : row + 2]
            own = output.pred_keypoints[i, list(scene.schema.slots[class_index]), :2]
            assert whole.keypoints[start:end].tolist() == own.tolist()
            row += 1
    assert row == whole.num_detections


def test_wide_rows_where_a_garment_of_the_class_has_no_visible_landmark(scene, whole):
    wide = {}
    row = 0
    for record, output in zip(scene.records, scene.outputs, strict=True):
        bare = {a["category_id"] for a in record["annotations"] if 2 not in a["keypoints"][2::3]}
        for i in range(len(output)):
            if int(output.pred_classes[i]) in bare:
                wide[row] = output.pred_keypoints[i, :, :2].numpy()
            row += 1
    assert 0 < len(wide) < row
    assert whole.wide_detection.tolist() == list(wide)
    assert np.array_equal(whole.wide_keypoints, list(wide.values()))


def test_round_trip(whole, tmp_path):
    path = tmp_path / "new" / "predictions.npz"
    whole.save(path)
    assert_equal(Predictions.load(path, whole.schema), whole)
    with zipfile.ZipFile(path) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_compact_file(whole, tmp_path):
    """Landmarks are as near as float16 from the box's corner is; all else is the same, without wide rows."""
    path = tmp_path / "predictions.npz"
    whole.save(path, compact=True)
    found = Predictions.load(path, whole.schema)
    assert len(found.wide_detection) == len(found.wide_keypoints) == 0 < len(whole.wide_detection)
    for name in ("image_id", "detection_offsets", "category_id", "score", "box", "keypoint_score"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name
    for row, (start, end) in enumerate(pairwise(whole.keypoint_offsets)):
        corner = whole.box[row, :2]
        expected = (whole.keypoints[start:end] - corner).astype(np.float16).astype(np.float32) + corner
        assert np.array_equal(found.keypoints[start:end], expected)
    assert 0 < np.abs(found.keypoints - whole.keypoints).max() < 0.2
    found.save(path, compact=True)
    assert_equal(Predictions.load(path, whole.schema), found)


def test_a_compact_file_of_far_landmarks_of_none_and_of_boxes_alone(make_instances, tmp_path):
    skirt = one_skirt(make_instances)
    skirt.pred_keypoints[..., 0] = 1e30
    path, wide = tmp_path / "predictions.npz", np.zeros(13, bool)
    for output in (skirt, skirt[:0]):
        whole = Predictions.from_instances(output, image_id=1, schema=DEEPFASHION2, wide_classes=wide)
        whole.save(path, compact=True)
        found = Predictions.load(path, DEEPFASHION2)
        assert (found.keypoints == [65504, 1]).all() and len(found.keypoints) == len(whole.keypoints)
    skirt.remove("pred_keypoints")
    boxes = Predictions.from_instances(skirt, image_id=1, schema=DEEPFASHION2, wide_classes=wide)
    boxes.save(path, compact=True)
    assert_equal(Predictions.load(path, DEEPFASHION2), boxes)


def test_a_file_without_wide_rows(whole, tmp_path):
    path = tmp_path / "predictions.npz"
    whole.save(path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if not name.startswith("wide")}
    np.savez(path, **arrays)
    found = Predictions.load(path, whole.schema)
    assert len(found.wide_detection) == 0 and np.array_equal(found.keypoints, whole.keypoints)
    np.savez(path, **arrays, wide_detection=whole.wide_detection)
    with pytest.raises(ValueError, match=r"predictions\.npz: .*wide_landmarks"):
        Predictions.load(path, whole.schema)


@pytest.mark.parametrize(
    "stored",
    [np.zeros((2, 3, 2), np.uint8), np.zeros((2, 8, 2), np.int16), np.full((2, 8, 2), 255, np.uint8)],
)
def test_a_damaged_compact_file(make_instances, tmp_path, stored):
    path = tmp_path / "predictions.npz"
    whole = Predictions.from_instances(
        one_skirt(make_instances), image_id=1, schema=DEEPFASHION2, wide_classes=np.zeros(13, bool)
    )
    whole.save(path, compact=True)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **arrays | {"landmarks_float16": stored})
    with pytest.raises(
        ValueError, match=r"predictions\.npz: .*(landmarks_float16: expected|keypoints: expected f)"
    ):
        Predictions.load(path, DEEPFASHION2)


def test_no_photos_and_photos_without_detections(tmp_path):
    nothing = Predictions.concatenate([], DEEPFASHION2)
    assert len(nothing) == nothing.num_detections == 0 and list(nothing.coco_results()) == []
    nothing.save(tmp_path / "predictions.npz")
    assert_equal(Predictions.load(tmp_path / "predictions.npz", DEEPFASHION2), nothing)
    assert_equal(Predictions.concatenate([nothing, nothing], DEEPFASHION2), nothing)


def test_parts_of_parts(parts, whole):
    """As processes gather them; one saw no photo."""
    halves = [Predictions.concatenate(half, whole.schema) for half in (parts[:5], [], parts[5:])]
    assert_equal(Predictions.concatenate(halves, whole.schema), whole)


def test_coco_results(scene, whole):
    results = list(whole.coco_results())
    assert len(results) == whole.num_detections
    row = 0
    wide = set(whole.wide_detection.tolist())
    for record, output in zip(scene.records, scene.outputs, strict=True):
        for i in range(len(output)):
            result, class_index = results[row], int(output.pred_classes[i])
            x1, y1, x2, y2 = output.pred_boxes.tensor[i]
            expected = output.pred_keypoints[i].numpy().copy()
            if row not in wide:
                expected[np.setdiff1d(np.arange(len(expected)), scene.schema.slots[class_index])] = 0
            assert result == {
                "image_id": record["image_id"],
                "category_id": class_index + 1,
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "score": float(output.scores[i]),
                "keypoints": expected.ravel().tolist(),
            }
            row += 1


def one_skirt(make_instances):
    skirt = DEEPFASHION2.class_names.index("skirt")
    return make_instances([[0, 0, 10, 10]], [0.5], [skirt], np.ones((1, 294, 2)))


def test_instances_are_left_alone_and_not_shared(make_instances):
    output = one_skirt(make_instances)
    before = {name: value for name, value in one_skirt(make_instances).get_fields().items()}
    kept = Predictions.from_instances(output, image_id=1, schema=DEEPFASHION2, wide_classes=np.ones(13, bool))
    assert torch.equal(output.pred_boxes.tensor, before["pred_boxes"].tensor)
    assert torch.equal(output.pred_keypoints, before["pred_keypoints"])
    output.pred_boxes.tensor += 1
    output.scores += 1
    output.pred_keypoints += 1
    assert kept.box.tolist() == [[0, 0, 10, 10]] and kept.score.tolist() == [0.5]
    assert (kept.keypoints == 1).all() and (kept.wide_keypoints == 1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(make_instances, dtype):
    output = one_skirt(make_instances)
    output.scores, output.pred_keypoints = output.scores.to(dtype), output.pred_keypoints.to(dtype)
    kept = Predictions.from_instances(
        output, image_id=1, schema=DEEPFASHION2, wide_classes=np.zeros(13, bool)
    )
    assert kept.score.tolist() == [0.5] and (kept.keypoints == 1).all()


def _spoil(field, value=math.nan):
    def spoil(output):
        values = output.get(field)
        values = values.tensor if isinstance(values, Boxes) else values
        values.view(-1)[0] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil("pred_boxes"), r"image 5: pred_boxes: expected finite numbers, 1 of 4"),
        (_spoil("scores"), r"image 5: scores: expected finite"),
        (_spoil("pred_keypoints", math.inf), r"image 5: pred_keypoints: expected finite"),
        (_spoil("pred_classes", 13), r"image 5: pred_classes: expected 0..12, got \[13\]"),
        (_spoil("pred_classes", -1), r"image 5: pred_classes: expected 0..12, got \[-1\]"),
        (lambda o: o.set("pred_keypoints", o.pred_keypoints[:, :17]), r"expected shape \(1, 294, 3\)"),
        (lambda o: o.remove("scores"), r"image 5: scores is missing"),
    ],
)
def test_malformed_instances(make_instances, spoil, message):
    output = one_skirt(make_instances)
    spoil(output)
    with pytest.raises(ValueError, match=message):
        Predictions.from_instances(output, image_id=5, schema=DEEPFASHION2, wide_classes=np.zeros(13, bool))


def test_boxes_alone(scene, tmp_path):
    for output in scene.outputs:
        output.remove("pred_keypoints")
    wide_classes = np.ones(scene.schema.num_classes, bool)
    parts = [
        Predictions.from_instances(output, image_id=i, schema=scene.schema, wide_classes=wide_classes)
        for i, output in enumerate(scene.outputs)
    ]
    boxes = Predictions.concatenate([*parts, Predictions.empty(scene.schema)], scene.schema)
    assert boxes.num_detections == sum(map(len, scene.outputs)) > 0
    assert not boxes.has_keypoints and len(boxes.keypoints) == boxes.keypoint_offsets[-1] == 0
    boxes.save(tmp_path / "boxes.npz")
    again = Predictions.load(tmp_path / "boxes.npz", scene.schema)
    assert not again.has_keypoints
    assert_equal(boxes, again)
    assert all("keypoints" not in result for result in boxes.coco_results())


def test_some_with_landmarks_and_some_without(scene, parts):
    output = scene.outputs[0]
    output.remove("pred_keypoints")
    none = np.zeros(scene.schema.num_classes, bool)
    boxes = Predictions.from_instances(output, image_id=-1, schema=scene.schema, wide_classes=none)
    with pytest.raises(ValueError, match="pred_keypoints: expected in all predictions or in none"):
        Predictions.concatenate([*parts, boxes], scene.schema)


def test_a_photo_predicted_twice(parts, whole):
    with pytest.raises(ValueError, match=f"image {whole.image_id[2]}: predicted more than once"):
        Predictions.concatenate([*parts, parts[2]], whole.schema)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("category_id", lambda a: a + 13, r"category_id: expected 0\.\."),
        ("category_id", lambda a: a.astype(np.int64), "category_id: expected int16, got int64"),
        ("score", lambda a: a[:-1], "score: expected shape"),
        ("keypoints", lambda a: a[:-1], "keypoints: expected shape"),
        ("detection_offsets", lambda a: a[::-1], "detection_offsets: expected 0 first"),
        ("detection_offsets", lambda a: a + 1, "detection_offsets: expected 0 first"),
        ("wide_detection", lambda a: a[::-1], "wide_detection: expected rising"),
        ("wide_detection", lambda a: a + 10_000, "wide_detection: expected rising"),
    ],
)
def test_columns_that_contradict_one_another(whole, name, change, message):
    columns = {column: getattr(whole, column) for column in COLUMNS}
    with pytest.raises(ValueError, match=message):
        Predictions(schema=whole.schema, **columns | {name: change(columns[name])})


def test_files_that_are_missing_or_of_another_kind(whole, tmp_path, monkeypatch):
    path = tmp_path / "predictions.npz"
    with pytest.raises(FileNotFoundError, match=r"predictions\.npz: there is no such"):
        Predictions.load(path, whole.schema)
    path.write_text("text")
    with pytest.raises(ValueError, match=r"predictions\.npz: not a usable predictions file: truncated"):
        Predictions.load(path, whole.schema)
    np.savez(path, image_id=np.zeros(3))
    with pytest.raises(ValueError, match=r"predictions\.npz: not a usable .*format_version"):
        Predictions.load(path, whole.schema)
    whole.save(path)
    other = FLD if whole.schema is DEEPFASHION2 else DEEPFASHION2
    with pytest.raises(ValueError, match=f"schema: expected '{other.name}', got '{whole.schema.name}'"):
        Predictions.load(path, other)
    monkeypatch.setattr(module, "FORMAT_VERSION", 99)
    with pytest.raises(ValueError, match="format_version: expected 99, got 1"):
        Predictions.load(path, whole.schema)


@pytest.mark.parametrize("name", ["score", "box", "keypoints", "wide_keypoints"])
def test_a_file_with_a_number_that_is_not_finite(whole, tmp_path, name):
    getattr(whole, name).flat[1] = math.inf
    whole.save(tmp_path / "predictions.npz")
    count = getattr(whole, name).size
    message = rf"predictions\.npz: .*: {name}: expected finite numbers, 1 of {count}"
    with pytest.raises(ValueError, match=message):
        Predictions.load(tmp_path / "predictions.npz", whole.schema)


def test_damaged_files(whole, tmp_path):
    path, rng = tmp_path / "predictions.npz", np.random.default_rng(0)
    whole.save(path)
    content = path.read_bytes()
    for cut in rng.integers(0, len(content), 20).tolist():
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"predictions\.npz: not a usable predictions file"):
            Predictions.load(path, whole.schema)
    refused = 0
    for place in rng.integers(0, len(content), 200).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        try:
            loaded = Predictions.load(path, whole.schema)
        except ValueError as error:
            assert "not a usable predictions file" in str(error)
            refused += 1
        else:
            assert_equal(loaded, whole)  # a byte that says nothing, such as the archive's date
    assert refused > 100


def test_an_interrupted_save_leaves_the_old_file(whole, tmp_path, monkeypatch):
    path = tmp_path / "predictions.npz"
    path.write_text("old")

    def interrupted(file, **columns):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        whole.save(path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("predictions.npz", "old")]


def test_landmarks_are_ranked_by_their_own_scores(scene, parts, whole, tmp_path):
    assert not whole.keypoint_score.any() and whole.ranked_by_keypoints() is whole
    output = next(each for each in scene.outputs if len(each))
    scored = Instances(output.image_size, **output.get_fields())
    scored.keypoint_scores = output.scores / 2
    none = np.zeros(scene.schema.num_classes, bool)
    predictions = Predictions.from_instances(scored, image_id=1, schema=scene.schema, wide_classes=none)
    assert predictions.score.tolist() == output.scores.tolist()
    ranked = predictions.ranked_by_keypoints()
    assert ranked.score.tolist() == (output.scores / 2).tolist()
    assert np.array_equal(ranked.keypoints, predictions.keypoints)
    predictions.save(tmp_path / "own.npz")
    loaded = Predictions.load(tmp_path / "own.npz", scene.schema)
    assert np.array_equal(loaded.keypoint_score, predictions.keypoint_score)
    whole.save(tmp_path / "none.npz")
    assert not Predictions.load(tmp_path / "none.npz", scene.schema).keypoint_score.any()
    scored.keypoint_scores[0] = math.nan
    with pytest.raises(ValueError, match="keypoint_scores: expected finite numbers"):
        Predictions.from_instances(scored, image_id=1, schema=scene.schema, wide_classes=none)
