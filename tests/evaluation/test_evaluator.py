"""FashionEvaluator against plain pycocotools, plain loops and what must hold of any evaluation."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import coco_evaluation
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.schema import DEEPFASHION2 as SCHEMA

SIZE = 400
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


def garment(class_index, box, landmarks):
    return {
        "bbox": list(box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": class_index,
        "keypoints": np.asarray(landmarks, dtype=float).ravel().tolist(),
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
    count = SCHEMA.num_landmarks(class_index)
    landmarks = np.stack(
        [x + width * rng.random(count), y + height * rng.random(count), rng.integers(0, 3, count)], axis=1
    )
    landmarks[0, 2] = rng.integers(1, 3)
    landmarks[landmarks[:, 2] == 0] = 0
    return garment(class_index, (x, y, x + width, y + height), landmarks if labelled else 0 * landmarks)


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


def instances(boxes, scores, classes, keypoints):
    return Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(torch.as_tensor(np.asarray(boxes, dtype=np.float64).reshape(-1, 4))),
        scores=torch.as_tensor(np.asarray(scores, dtype=np.float64)),
        pred_classes=torch.as_tensor(np.asarray(classes, dtype=np.int64)),
        pred_keypoints=torch.as_tensor(np.asarray(keypoints, dtype=np.float64)).reshape(-1, 294, 3),
    )


def perfect_instances(record):
    """The truth; slots without it (a network fills them all) stand at the box's centre."""
    keypoints = []
    for a in record["annotations"]:
        truth = SCHEMA.scatter(np.reshape(a["keypoints"], (-1, 3)), a["category_id"])
        centre = [sum(a["bbox"][0::2]) / 2, sum(a["bbox"][1::2]) / 2, 0]
        keypoints.append(np.where(truth[:, 2:] > 0, truth, centre))
    return instances(
        [a["bbox"] for a in record["annotations"]],
        [0.9] * len(keypoints),
        [a["category_id"] for a in record["annotations"]],
        keypoints,
    )


def random_instances(rng, record, classes=range(SCHEMA.num_classes)):
    """Each garment found roughly, often twice; a few false ones; all 294 slots filled."""
    rows = []
    for annotation in record["annotations"]:
        for _ in range(rng.integers(3)):
            own = np.reshape(annotation["keypoints"], (-1, 3))
            keypoints = rng.uniform(0, SIZE, (294, 3))
            keypoints[list(SCHEMA.slots[annotation["category_id"]])] = own + rng.normal(
                0, rng.choice([1, 4, 12]), own.shape
            )
            box = np.array(annotation["bbox"]) + rng.normal(0, rng.choice([1, 5, 15]), 4)
            rows.append((box, rng.random(), annotation["category_id"], keypoints))
    for _ in range(rng.integers(30)):
        box = np.sort(rng.uniform(0, SIZE, (2, 2)), axis=0).ravel()
        rows.append((box, rng.random(), int(rng.choice(classes)), rng.uniform(0, SIZE, (294, 3))))
    return instances(*(zip(*rows, strict=True) if rows else ([], [], [], np.zeros((0, 294, 3)))))


def evaluate(evaluator, dataset, predictions):
    evaluator.reset()
    for record, prediction in zip(dataset, predictions, strict=True):
        evaluator.process([record], [{"instances": prediction}])
    return evaluator.evaluate()


def plain_pycocotools(dataset, predictions, iou_type):
    """COCOeval on dicts written here, 294 landmarks each. -> stats, AP per class."""
    truth, found = [], []
    for record, prediction in zip(dataset, predictions, strict=True):
        for a in record["annotations"]:
            x1, y1, x2, y2 = a["bbox"]
            start = sum(SCHEMA.num_landmarks(c) for c in range(a["category_id"]))
            keypoints = [0.0] * (3 * 294)
            keypoints[3 * start : 3 * start + len(a["keypoints"])] = a["keypoints"]
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": record["image_id"],
                    "category_id": a["category_id"],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "keypoints": keypoints,
                    "num_keypoints": sum(v > 0 for v in a["keypoints"][2::3]),
                }
            )
        for i in range(len(prediction)):
            x1, y1, x2, y2 = prediction.pred_boxes.tensor[i].tolist()
            found.append(
                {
                    "image_id": record["image_id"],
                    "category_id": int(prediction.pred_classes[i]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(prediction.scores[i]),
                    "keypoints": prediction.pred_keypoints[i].ravel().tolist(),
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": record["image_id"]} for record in dataset],
        "categories": [{"id": c} for c in range(13)],
        "annotations": truth,
    }
    coco.createIndex()
    coco_eval = COCOeval(coco, coco.loadRes(found), iou_type)
    if iou_type == "keypoints":
        coco_eval.params.kpt_oks_sigmas = np.array(SCHEMA.sigmas)
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    precision = coco_eval.eval["precision"][:, :, :, 0, -1]
    per_class = [p[p > -1].mean() if (p > -1).any() else math.nan for p in np.moveaxis(precision, 2, 0)]
    return coco_eval.stats, per_class


@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_pycocotools(register, seed):
    rng = np.random.default_rng(seed)
    classes = [0, 3, 6, 7, 8, 10]
    dataset = random_dataset(rng, classes)
    predictions = [random_instances(rng, record, classes) for record in dataset]
    results = evaluate(FashionEvaluator(register(dataset)), dataset, predictions)
    for task, keys in {
        "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
        "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
    }.items():
        stats, per_class = plain_pycocotools(dataset, predictions, task)
        assert 1 < results[task]["AP"] < 99  # else the comparison would say little
        expected = {
            key: 100 * stat if stat >= 0 else math.nan for key, stat in zip(keys, stats, strict=False)
        }
        expected |= {f"AP-{n}": 100 * ap for n, ap in zip(SCHEMA.class_names, per_class, strict=True)}
        assert results[task] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_perfect_predictions_reach_100_and_ap_is_the_mean_over_classes(register):
    rng = np.random.default_rng(0)
    dataset = random_dataset(rng, [TROUSERS, SKIRT])
    results = evaluate(FashionEvaluator(register(dataset)), dataset, map(perfect_instances, dataset))
    for task in ("bbox", "keypoints"):
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-trousers"] == results[task]["AP-skirt"] == pytest.approx(100)
        assert math.isnan(results[task]["AP-vest"])


def test_a_class_that_is_missed_halves_the_mean(register):
    rng = np.random.default_rng(0)
    dataset = [photo(1, [random_garment(rng, TROUSERS), random_garment(rng, SKIRT)])]
    prediction = perfect_instances(dataset[0])
    results = evaluate(FashionEvaluator(register(dataset)), dataset, [prediction[:1]])
    for task in ("bbox", "keypoints"):
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
def test_no_half_pixel_shift(register, shift):
    """One garment, so AP is the share of the ten thresholds that its OKS reaches."""
    rng = np.random.default_rng(1)
    count = SCHEMA.num_landmarks(SKIRT)
    truth = np.concatenate([rng.uniform(10, 20, (count, 2)), np.full((count, 1), 2)], axis=1)
    dataset = [photo(1, [garment(SKIRT, (10, 10, 20, 20), truth)])]
    prediction = perfect_instances(dataset[0])
    prediction.pred_keypoints[..., :2] += shift
    oks = oks_by_loop(truth, truth + np.array([shift, shift, 0]), SKIRT, area=100)
    assert oks == 1 if shift == 0 else 0.55 < oks < 0.95
    results = evaluate(FashionEvaluator(register(dataset)), dataset, [prediction])
    reached = sum(oks >= threshold for threshold in np.linspace(0.5, 0.95, 10))
    assert results["keypoints"]["AP"] == pytest.approx(10 * reached)


def test_garment_without_landmarks_is_ignored_for_landmarks_only(register):
    rng = np.random.default_rng(0)
    labelled, bare = random_garment(rng, SKIRT), random_garment(rng, SKIRT, labelled=False)
    dataset = [photo(1, [labelled]), photo(2, [bare])]
    predictions = [perfect_instances(dataset[0]), perfect_instances(dataset[1])[:0]]
    results = evaluate(FashionEvaluator(register(dataset)), dataset, predictions)
    assert results["keypoints"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] < 60


def test_occluded_landmarks_count(register):
    rng = np.random.default_rng(0)
    annotation = random_garment(rng, SKIRT)
    landmarks = np.reshape(annotation["keypoints"], (-1, 3))
    landmarks[:, 2] = 1
    dataset = [photo(1, [{**annotation, "keypoints": landmarks.ravel().tolist()}])]
    results = evaluate(FashionEvaluator(register(dataset)), dataset, [perfect_instances(dataset[0])])
    assert results["keypoints"]["AP"] == pytest.approx(100)


def test_limits_of_20_for_landmarks_and_of_the_argument_for_boxes(register):
    """Twenty-four better-scored false skirts stand before the true one."""
    dataset = [photo(1, [random_garment(np.random.default_rng(0), SKIRT)])]
    true = perfect_instances(dataset[0])
    false = instances([[300, 300, 390, 390]] * 24, [0.95] * 24, [SKIRT] * 24, np.full((24, 294, 3), 350.0))
    prediction = Instances.cat([false, true])
    name = register(dataset)
    results = evaluate(FashionEvaluator(name), dataset, [prediction])
    assert results["keypoints"]["AP"] == 0
    assert results["bbox"]["AP"] == pytest.approx(4)  # precision 1/25 at every recall
    assert evaluate(FashionEvaluator(name, max_dets_per_image=24), dataset, [prediction])["bbox"]["AP"] == 0


def test_no_predictions_at_all_give_zero(register, tmp_path):
    rng = np.random.default_rng(0)
    dataset = [photo(1, [random_garment(rng, SKIRT)]), photo(2, [])]
    nothing = [perfect_instances(record)[:0] for record in dataset]
    results = evaluate(FashionEvaluator(register(dataset), output_dir=str(tmp_path)), dataset, nothing)
    for task in ("bbox", "keypoints"):
        assert results[task]["AP"] == results[task]["AP50"] == results[task]["AP-skirt"] == 0
        assert math.isnan(results[task]["AP-vest"])
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_predictions_are_left_alone(register):
    dataset = random_dataset(np.random.default_rng(0))
    predictions = [perfect_instances(record) for record in dataset]
    before = [(p.pred_boxes.tensor.clone(), p.scores.clone(), p.pred_keypoints.clone()) for p in predictions]
    evaluate(FashionEvaluator(register(dataset)), dataset, predictions)
    for p, (boxes, scores, keypoints) in zip(predictions, before, strict=True):
        assert torch.equal(p.pred_boxes.tensor, boxes)
        assert torch.equal(p.scores, scores)
        assert torch.equal(p.pred_keypoints, keypoints)


def test_results_file_holds_unshifted_coordinates_and_no_ground_truth_is_cached(register, tmp_path):
    dataset = [photo(5, [random_garment(np.random.default_rng(0), SKIRT)])]
    prediction = perfect_instances(dataset[0])
    name = register(dataset)
    (tmp_path / f"{name}_coco_format.json").write_text("not JSON, and of no account")
    evaluate(FashionEvaluator(name, output_dir=str(tmp_path)), dataset, [prediction])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}_coco_format.json",
        "coco_instances_results.json",
        "instances_predictions.pth",
    }
    (result,) = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert result["image_id"] == 5
    assert result["keypoints"] == prediction.pred_keypoints.ravel().tolist()
    x1, y1, x2, y2 = dataset[0]["annotations"][0]["bbox"]
    assert result["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])


def test_processes_share_the_work(register, monkeypatch):
    """Two evaluators stand for two processes, each with half of the images."""
    rng = np.random.default_rng(4)
    dataset = random_dataset(rng, [TROUSERS, SKIRT])
    predictions = [random_instances(rng, record, [TROUSERS, SKIRT]) for record in dataset]
    name = register(dataset)
    alone = evaluate(FashionEvaluator(name, distributed=False), dataset, predictions)
    ranks = [FashionEvaluator(name), FashionEvaluator(name)]
    for rank, record, prediction in zip(itertools.cycle(ranks), dataset, predictions, strict=False):
        rank.process([record], [{"instances": prediction}])
    shared = [rank._predictions for rank in ranks]
    monkeypatch.setattr(coco_evaluation.comm, "gather", lambda data, dst: shared)
    together = ranks[0].evaluate()
    for task in ("bbox", "keypoints"):
        assert together[task] == pytest.approx(alone[task], nan_ok=True)


def test_wrong_number_of_sigmas(register):
    name = register([photo(1, [random_garment(np.random.default_rng(0), SKIRT)])])
    with pytest.raises(ValueError, match=r"KEYPOINT_OKS_SIGMAS.*expected 294.*got 17"):
        FashionEvaluator(name, kpt_oks_sigmas=[0.1] * 17)


def test_sigmas_given_are_the_sigmas_used(register):
    dataset = [photo(1, [random_garment(np.random.default_rng(0), SKIRT)])]
    prediction = perfect_instances(dataset[0])
    prediction.pred_keypoints[..., :2] += 3
    name = register(dataset)
    strict, lenient = (
        evaluate(FashionEvaluator(name, kpt_oks_sigmas=[s] * 294), dataset, [prediction]) for s in (1e-3, 1)
    )
    assert (strict["keypoints"]["AP"], lenient["keypoints"]["AP"]) == (0, pytest.approx(100))


def test_dataset_without_schema_or_garments(register):
    with pytest.raises(ValueError, match="lacks keypoint_schema"):
        FashionEvaluator(register([photo(1, [])], keypoint_schema=None))
    with pytest.raises(ValueError, match="expected garments"):
        FashionEvaluator(register([photo(1, [])]))


def _spoil(field):
    def spoil(prediction):
        values = prediction.get(field)
        values = values.tensor if isinstance(values, Boxes) else values
        values.view(-1)[0] = math.nan

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil("pred_boxes"), r"image 5: pred_boxes: expected finite numbers, 1 of 4"),
        (_spoil("scores"), r"image 5: scores: expected finite"),
        (_spoil("pred_keypoints"), r"image 5: pred_keypoints: expected finite"),
        (lambda p: p.set("pred_keypoints", p.pred_keypoints[:, :17]), r"expected shape \(1, 294, 3\)"),
        (lambda p: p.set("pred_classes", p.pred_classes + 13), r"image 5: pred_classes: expected 0..12"),
        (lambda p: p.remove("pred_keypoints"), r"image 5: pred_keypoints is missing"),
    ],
)
def test_malformed_predictions(register, spoil, message):
    dataset = [photo(5, [random_garment(np.random.default_rng(0), SKIRT)])]
    prediction = perfect_instances(dataset[0])
    spoil(prediction)
    with pytest.raises(ValueError, match=message):
        evaluate(FashionEvaluator(register(dataset)), dataset, [prediction])


def test_unknown_image(register):
    dataset = [photo(5, [random_garment(np.random.default_rng(0), SKIRT)])]
    evaluator = FashionEvaluator(register(dataset))
    with pytest.raises(ValueError, match=r"image 6: no such image_id among the 1 images"):
        evaluator.process([{"image_id": 6}], [{"instances": perfect_instances(dataset[0])}])
