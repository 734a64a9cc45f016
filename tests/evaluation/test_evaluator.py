"""FashionEvaluator against plain loops and what must hold of any evaluation, and its errors and files.

That its numbers are pycocotools' is tested in test_average_precision.
"""

import itertools
import json
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from detectron2.evaluation import print_csv_format
from detectron2.structures import BoxMode, Instances

from kgdet_d2.data import FashionDataset
from kgdet_d2.evaluation import AnnotationTable, FashionEvaluator, evaluator
from kgdet_d2.evaluation.average_precision import average_precisions
from kgdet_d2.schema import DEEPFASHION2 as SCHEMA
from kgdet_d2.structures.predictions import Predictions

SIZE = 400
TASKS = ("bbox", "keypoints", "keypoints_visible")
TROUSERS, SKIRT = SCHEMA.class_names.index("trousers"), SCHEMA.class_names.index("skirt")


@pytest.fixture
def register():
    names = []

    def _register(dataset_dicts, **metadata):
        name = f"test_evaluator_{len(names)}"
        DatasetCatalog.register(name, lambda: dataset_dicts)
        names.append(name)
        metadata = {"thing_classes": list(SCHEMA.class_names), "keypoint_schema": SCHEMA, **metadata}
        MetadataCatalog.get(name).set(**metadata)
        return name

    yield _register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def garment(class_index, box, keypoints):
    return {
        "bbox": list(box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": class_index,
        "keypoints": np.asarray(keypoints, dtype=float).ravel().tolist(),
        "iscrowd": 0,
    }


def photo(image_id, annotations):
    return {
        "file_name": f"{image_id}.jpg",
        "image_id": image_id,
        "height": SIZE,
        "width": SIZE,
        "annotations": annotations,
    }


def random_garment(rng, class_index, labelled=True):
    x, y = rng.uniform(0, SIZE / 2, 2)
    width, height = rng.uniform(20, SIZE / 2, 2)
    count = SCHEMA.num_class_keypoints(class_index)
    keypoints = np.stack(
        [x + width * rng.random(count), y + height * rng.random(count), rng.integers(0, 3, count)], axis=1
    )
    keypoints[0, 2] = rng.integers(1, 3)
    keypoints[keypoints[:, 2] == 0] = 0
    return garment(class_index, (x, y, x + width, y + height), keypoints if labelled else 0 * keypoints)


def random_dataset(rng, classes=range(SCHEMA.num_classes), images=20):
    """Up to four garments a photo, one in five without landmarks; image ids with gaps."""
    return [
        photo(
            7 * number + 3,
            [
                random_garment(rng, int(rng.choice(classes)), rng.random() > 0.2)
                for _ in range(rng.integers(5))
            ],
        )
        for number in range(images)
    ]


@pytest.fixture
def perfect_instances(make_instances):
    def _perfect(record):
        """The truth; slots without it (a network fills them all) stand at the box's centre."""
        keypoints = []
        for a in record["annotations"]:
            truth = SCHEMA.scatter(np.reshape(a["keypoints"], (-1, 3)), a["category_id"])
            centre = [sum(a["bbox"][0::2]) / 2, sum(a["bbox"][1::2]) / 2]
            keypoints.append(np.where(truth[:, 2:] > 0, truth[:, :2], centre))
        boxes = [a["bbox"] for a in record["annotations"]]
        classes = [a["category_id"] for a in record["annotations"]]
        return make_instances(boxes, [0.9] * len(boxes), classes, keypoints)

    return _perfect


def evaluate(evaluator, dataset, predictions):
    """Photo by photo."""
    evaluator.reset()
    for record, prediction in zip(dataset, predictions, strict=True):
        evaluator.process([record], [{"instances": prediction}])
    return evaluator.evaluate()


def test_perfect_predictions_reach_100_and_ap_is_the_mean_over_classes(register, perfect_instances):
    rng = np.random.default_rng(0)
    dataset = random_dataset(rng, [TROUSERS, SKIRT])
    results = evaluate(FashionEvaluator(register(dataset)), dataset, map(perfect_instances, dataset))
    for task in TASKS:
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-trousers"] == results[task]["AP-skirt"] == pytest.approx(100)
        assert math.isnan(results[task]["AP-vest"])


def test_a_class_that_is_missed_halves_the_mean(register, perfect_instances):
    rng = np.random.default_rng(0)
    dataset = [photo(1, [random_garment(rng, TROUSERS), random_garment(rng, SKIRT)])]
    prediction = perfect_instances(dataset[0])
    results = evaluate(FashionEvaluator(register(dataset)), dataset, [prediction[:1]])
    for task in TASKS:
        assert results[task]["AP"] == pytest.approx(50)
        assert results[task]["AP-skirt"] == 0


def oks_by_loop(truth, found, class_index, area):
    total, count = 0.0, 0
    for i, (x, y, v) in enumerate(truth):
        if v > 0:
            variance = (2 * SCHEMA.sigmas[SCHEMA.slots[class_index][i]]) ** 2
            distance = (found[i][0] - x) ** 2 + (found[i][1] - y) ** 2
            total, count = total + math.exp(-distance / (2 * area * variance)), count + 1
    return total / count


@pytest.mark.parametrize("shift", [0.0, 0.5, -0.5])
def test_no_half_pixel_shift(register, perfect_instances, shift):
    """One garment, so AP is the share of the ten thresholds that its OKS reaches."""
    rng = np.random.default_rng(1)
    count = SCHEMA.num_class_keypoints(SKIRT)
    truth = np.concatenate([rng.uniform(10, 20, (count, 2)), np.full((count, 1), 2)], axis=1)
    dataset = [photo(1, [garment(SKIRT, (10, 10, 20, 20), truth)])]
    prediction = perfect_instances(dataset[0])
    prediction.pred_keypoints[..., :2] += shift
    oks = oks_by_loop(truth, truth + np.array([shift, shift, 0]), SKIRT, area=100)
    assert oks == 1 if shift == 0 else 0.55 < oks < 0.95
    results = evaluate(FashionEvaluator(register(dataset)), dataset, [prediction])
    reached = sum(oks >= threshold for threshold in np.linspace(0.5, 0.95, 10))
    assert results["keypoints"]["AP"] == pytest.approx(10 * reached)


def test_garment_without_landmarks_is_ignored_for_landmarks_only(register, perfect_instances):
    rng = np.random.default_rng(0)
    labelled, bare = random_garment(rng, SKIRT), random_garment(rng, SKIRT, labelled=False)
    dataset = [photo(1, [labelled]), photo(2, [bare])]
    predictions = [perfect_instances(dataset[0]), perfect_instances(dataset[1])[:0]]
    results = evaluate(FashionEvaluator(register(dataset)), dataset, predictions)
    assert results["keypoints"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] < 60


def test_occluded_landmarks_count(register, perfect_instances):
    rng = np.random.default_rng(0)
    annotation = random_garment(rng, SKIRT)
    keypoints = np.reshape(annotation["keypoints"], (-1, 3))
    keypoints[:, 2] = 1
    dataset = [photo(1, [{**annotation, "keypoints": keypoints.ravel().tolist()}])]
    results = evaluate(FashionEvaluator(register(dataset)), dataset, [perfect_instances(dataset[0])])
    assert results["keypoints"]["AP"] == pytest.approx(100)


def test_limits_of_20_for_landmarks_and_of_the_argument_for_boxes(
    register, perfect_instances, make_instances
):
    """Twenty-four better-scored false skirts stand before the true one."""
    dataset = [photo(1, [random_garment(np.random.default_rng(0), SKIRT)])]
    true = perfect_instances(dataset[0])
    false = make_instances(
        [[300, 300, 390, 390]] * 24, [0.95] * 24, [SKIRT] * 24, np.full((24, 294, 2), 350.0)
    )
    prediction = Instances.cat([false, true])
    name = register(dataset)
    results = evaluate(FashionEvaluator(name), dataset, [prediction])
    assert results["keypoints"]["AP"] == results["keypoints_visible"]["AP"] == 0
    assert results["bbox"]["AP"] == pytest.approx(4)  # precision 1/25 at every recall
    assert evaluate(FashionEvaluator(name, max_dets_per_image=24), dataset, [prediction])["bbox"]["AP"] == 0


def test_both_implementations_and_the_form_of_the_results(register, make_scene, caplog):
    scene = make_scene(np.random.default_rng(0), images=20)
    name = register(scene.records)
    fast, plain = (
        evaluate(FashionEvaluator(name, use_fast_impl=fast), scene.records, scene.outputs)
        for fast in (True, False)
    )
    assert tuple(fast) == tuple(plain) == TASKS
    for task in TASKS:
        assert fast[task] == pytest.approx(plain[task], rel=0, abs=1e-9, nan_ok=True)
        assert all(type(score) is float for score in fast[task].values())
        assert {"AP", "AP50", "AP75", "APm", "APl", "AP-sling"} < fast[task].keys()
    with caplog.at_level(logging.INFO):
        print_csv_format(fast)
    expected = ",".join(f"{fast['bbox'][key]:.4f}" for key in ("AP", "AP50", "AP75", "APs", "APm", "APl"))
    assert expected in caplog.text


def test_tables_in_the_log(register, make_scene, caplog):
    scene = make_scene(np.random.default_rng(0), images=20)
    with caplog.at_level(logging.INFO, logger="kgdet_d2"):
        results = evaluate(FashionEvaluator(register(scene.records)), scene.records, scene.outputs)
    rows = {line.split("|")[1].strip(): line for line in caplog.text.splitlines() if line.count("|") > 4}
    skirts = sum(a["category_id"] == SKIRT for record in scene.records for a in record["annotations"])
    cells = [cell.strip() for cell in rows["skirt"].strip("|").split("|")]
    assert cells == ["skirt", str(skirts), *(f"{results[task]['AP-skirt']:.3f}" for task in TASKS)]
    assert set(SCHEMA.class_names) < rows.keys()
    for task in TASKS:
        assert f"Evaluation results for {task}:" in caplog.text
    assert f"{results['bbox']['AP']:.3f}" in caplog.text


def test_no_predictions_at_all_give_zero(register, perfect_instances, tmp_path):
    rng = np.random.default_rng(0)
    dataset = [photo(1, [random_garment(rng, SKIRT)]), photo(2, [])]
    evaluator = FashionEvaluator(register(dataset), output_dir=str(tmp_path), save_coco_results=True)
    nothing = [perfect_instances(record)[:0] for record in dataset]
    for results in (evaluate(evaluator, dataset, nothing), evaluate(evaluator, [], [])):
        for task in TASKS:
            assert results[task]["AP"] == results[task]["AP50"] == results[task]["AP-skirt"] == 0
            assert math.isnan(results[task]["AP-vest"])
        assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_photos_that_were_not_predicted_count_as_missed(register, perfect_instances, caplog):
    rng = np.random.default_rng(0)
    dataset = [photo(number, [random_garment(rng, SKIRT)]) for number in range(4)]
    name = register(dataset)
    results = evaluate(FashionEvaluator(name), dataset[:1], [perfect_instances(dataset[0])])
    for task in TASKS:
        assert results[task]["AP50"] == pytest.approx(100 * 26 / 101)  # recall 0.25: 26 of 101 steps
    assert f"{name}: 3 of 4 photos were not predicted" in caplog.text


def test_a_model_of_boxes_alone_has_box_AP_alone(register, make_scene):
    scene = make_scene(np.random.default_rng(0), images=8)
    name = register(scene.records)
    both = evaluate(FashionEvaluator(name), scene.records, scene.outputs)
    for output in scene.outputs:
        output.remove("pred_keypoints")
    boxes = evaluate(FashionEvaluator(name), scene.records, scene.outputs)
    assert boxes.keys() == {"bbox"}
    assert boxes["bbox"] == pytest.approx(both["bbox"], rel=0, abs=0, nan_ok=True)


def test_files(register, make_scene, tmp_path):
    scene = make_scene(np.random.default_rng(0), images=8)
    name = register(scene.records)
    (tmp_path / f"{name}_coco_format.json").write_text("not JSON, and of no account")
    evaluator = FashionEvaluator(name, output_dir=str(tmp_path))
    results = evaluate(evaluator, scene.records, scene.outputs)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}_coco_format.json", "predictions.npz"}
    predictions = Predictions.load(tmp_path / "predictions.npz", SCHEMA)
    again = average_precisions(evaluator.ground_truth, predictions)
    for task in TASKS:
        assert again[task][0].summary() == pytest.approx(results[task], rel=0, abs=0, nan_ok=True)
    evaluate(
        FashionEvaluator(name, output_dir=str(tmp_path / "new"), save_coco_results=True),
        *(scene.records, scene.outputs),
    )
    found = json.loads((tmp_path / "new" / "coco_instances_results.json").read_text())
    assert found == list(predictions.coco_results()) and len(found[0]["keypoints"]) == 3 * 294


def test_an_interrupted_export_leaves_no_half_file(register, make_scene, tmp_path, monkeypatch):
    scene = make_scene(np.random.default_rng(0), images=8)

    def interrupted(predictions):
        yield {"image_id": 1}
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictions, "coco_results", interrupted)
    evaluator = FashionEvaluator(register(scene.records), output_dir=str(tmp_path), save_coco_results=True)
    with pytest.raises(KeyboardInterrupt):
        evaluate(evaluator, scene.records, scene.outputs)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


@pytest.mark.parametrize("shares", [2, 3, 99], ids=["two", "three", "one saw no photo"])
def test_processes_share_the_work(register, make_scene, monkeypatch, tmp_path, shares):
    """Evaluators stand for processes, each with its share of the photos; of 99 most have none."""
    scene = make_scene(np.random.default_rng(4), images=12)
    name = register(scene.records)
    alone = evaluate(FashionEvaluator(name, distributed=False), scene.records, scene.outputs)
    ranks = [FashionEvaluator(name, output_dir=str(tmp_path / str(rank))) for rank in range(shares)]
    for rank, record, output in zip(itertools.cycle(ranks), scene.records, scene.outputs, strict=False):
        rank.process([record], [{"instances": output}])
    sent = []
    monkeypatch.setattr(evaluator.comm, "gather", lambda data, dst: [*sent, data])
    monkeypatch.setattr(evaluator.comm, "is_main_process", lambda: False)
    for rank in ranks[1:]:
        assert rank.evaluate() == {}
        sent.append(rank._predictions[0])
    monkeypatch.setattr(evaluator.comm, "is_main_process", lambda: True)
    together = ranks[0].evaluate()
    for task in TASKS:
        assert together[task] == pytest.approx(alone[task], rel=0, abs=1e-9, nan_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_a_photo_predicted_twice(register, perfect_instances, monkeypatch):
    dataset = [photo(5, [random_garment(np.random.default_rng(0), SKIRT)])]
    prediction = {"instances": perfect_instances(dataset[0])}
    rank = FashionEvaluator(register(dataset))
    rank.process(dataset, [prediction])
    with pytest.raises(ValueError, match="image 5: predicted more than once"):
        rank.process(dataset, [prediction])
    monkeypatch.setattr(evaluator.comm, "gather", lambda data, dst: [data, data])
    with pytest.raises(ValueError, match="image 5: predicted more than once"):
        rank.evaluate()


def _evaluate_in_process(records, outputs, folder):
    """The first process gets every photo, the second none."""
    DatasetCatalog.register("test_evaluator_processes", lambda: records)
    MetadataCatalog.get("test_evaluator_processes").set(keypoint_schema=SCHEMA)
    rank = FashionEvaluator("test_evaluator_processes")
    if evaluator.comm.is_main_process():
        rank.process(records, [{"instances": output} for output in outputs])
    results = rank.evaluate()
    (folder / f"{evaluator.comm.get_rank()}.json").write_text(json.dumps(results))
    evaluator.comm.synchronize()  # gloo's threads end badly in a process that leaves the others early
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="launch takes one GPU per process where there is any")
def test_two_real_processes(register, make_scene, tmp_path):
    scene = make_scene(np.random.default_rng(0), images=8)
    launch(_evaluate_in_process, 2, dist_url="auto", args=(scene.records, scene.outputs, tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    alone = evaluate(
        FashionEvaluator(register(scene.records), distributed=False), scene.records, scene.outputs
    )
    assert second == {}
    for task in TASKS:
        assert first[task] == pytest.approx(alone[task], rel=0, abs=1e-9, nan_ok=True)


def test_wrong_number_of_sigmas(register):
    name = register([photo(1, [random_garment(np.random.default_rng(0), SKIRT)])])
    with pytest.raises(ValueError, match=r"KEYPOINT_OKS_SIGMAS.*expected 294.*got 17"):
        FashionEvaluator(name, kpt_oks_sigmas=[0.1] * 17)


def test_sigmas_given_are_the_sigmas_used(register, perfect_instances):
    dataset = [photo(1, [random_garment(np.random.default_rng(0), SKIRT)])]
    prediction = perfect_instances(dataset[0])
    prediction.pred_keypoints[..., :2] += 3
    name = register(dataset)
    strict, lenient = (
        evaluate(FashionEvaluator(name, kpt_oks_sigmas=[s] * 294), dataset, [prediction]) for s in (1e-3, 1)
    )
    assert (strict["keypoints"]["AP"], lenient["keypoints"]["AP"]) == (0, pytest.approx(100))


def test_a_datasets_own_columns_give_what_its_dicts_give(register, make_scene, make_annotation):
    """To the last bit; garments without an area, which the dicts leave out, are left out here, too."""
    scene = make_scene(np.random.default_rng(0), images=12)
    for record in scene.records[::3]:
        flat = make_annotation(np.random.default_rng(1), SKIRT, bbox=[10.0, 20.0, 10.0, 90.0])
        record["annotations"].insert(0, {**flat, "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]})
    dataset = FashionDataset(AnnotationTable.from_dataset_dicts(scene.records, SCHEMA), "image")
    evaluators = [FashionEvaluator(register(records)) for records in (dataset, list(dataset))]
    own, from_dicts = (evaluator.ground_truth for evaluator in evaluators)
    assert own.num_garments == from_dicts.num_garments == dataset.annotations.num_garments - 4 > 10
    for name in ("image_id", "garment_image", "category_id", "area", "box_float64", "points_float64"):
        assert np.array_equal(getattr(own, name), getattr(from_dicts, name)), name
    results = [evaluate(evaluator, dataset, scene.outputs) for evaluator in evaluators]
    for task in TASKS:
        assert results[0][task] == pytest.approx(results[1][task], rel=0, abs=0, nan_ok=True)


def test_dataset_without_schema(register):
    with pytest.raises(ValueError, match="expected the names of its landmarks"):
        FashionEvaluator(register([photo(1, [])], keypoint_schema=None))


def test_photos_without_annotation_are_not_scored(register, tmp_path, caplog, make_instances):
    evaluator = FashionEvaluator(register([photo(1, [])]), output_dir=str(tmp_path), distributed=False)
    found = make_instances([[1, 2, 30, 40]], [0.9], [0], np.zeros((1, SCHEMA.num_keypoints, 2)))
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    with caplog.at_level("INFO"):
        assert evaluator.evaluate() == {}
    assert "nothing to score" in caplog.text
    assert Predictions.load(tmp_path / "predictions.npz", SCHEMA).num_detections == 1


@pytest.mark.parametrize("field", ["pred_boxes", "scores", "pred_keypoints"])
def test_predictions_that_are_not_finite(register, perfect_instances, field):
    """What else may be wrong with a prediction: see test_predictions."""
    dataset = [photo(5, [random_garment(np.random.default_rng(0), SKIRT)])]
    prediction = perfect_instances(dataset[0])
    values = prediction.get(field)
    (values.tensor if field == "pred_boxes" else values).view(-1)[0] = math.nan
    with pytest.raises(ValueError, match=f"image 5: {field}: expected finite numbers, 1 of"):
        evaluate(FashionEvaluator(register(dataset)), dataset, [prediction])


def test_unknown_image(register, perfect_instances):
    dataset = [photo(5, [random_garment(np.random.default_rng(0), SKIRT)])]
    rank = FashionEvaluator(register(dataset))
    with pytest.raises(ValueError, match=r"image 6: no such image_id among the 1 photos"):
        rank.process([{"image_id": 6}], [{"instances": perfect_instances(dataset[0])}])


def test_predictions_are_left_alone(register, make_scene):
    scene = make_scene(np.random.default_rng(0))
    before = [output.pred_keypoints.clone() for output in scene.outputs]
    evaluate(FashionEvaluator(register(scene.records)), scene.records, scene.outputs)
    assert all(
        torch.equal(output.pred_keypoints, kept) for output, kept in zip(scene.outputs, before, strict=True)
    )
