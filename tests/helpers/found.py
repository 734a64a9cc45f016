"""Our evaluator and Detectron2's on detections near a data set's garments."""

from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Instances

from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.schema import KeypointSchema
from tests.helpers.scenes import instances

SCORES = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}


def assert_same_digits(ours, theirs, class_names, tasks=tuple(SCORES)):
    assert tuple(sorted(theirs)) == tuple(sorted(tasks))
    for task in tasks:
        names = [*SCORES[task], *(f"AP-{name}" for name in class_names)]
        assert set(names) == set(theirs[task])
        for name in names:
            assert f"{ours[task][name]:.6f}" == f"{theirs[task][name]:.6f}", (task, name)


def near_the_truth(records: Sequence[dict], schema: KeypointSchema) -> Iterator[Instances]:
    """For each record three detections a garment, the surer the nearer, one in four of a wrong class."""
    rng = np.random.default_rng(0)
    for record in records:
        boxes, scores, classes, keypoints = [], [], [], []
        for annotation in record["annotations"]:
            box = np.array(annotation["bbox"], float)
            size = box[2:] - box[:2]
            own = np.reshape(annotation["keypoints"], (-1, 3))[:, :2]
            for error in rng.exponential(0.04, 3):
                wrong = rng.random() < 0.25
                found = rng.uniform(box[:2] - size, box[2:] + size, (schema.num_keypoints, 2))
                slots = list(schema.slots[annotation["category_id"]])
                found[slots] = own + rng.normal(0, error, own.shape) * size
                corners = box.reshape(2, 2) + rng.normal(0, error, (2, 2)) * size
                boxes.append(np.sort(corners, axis=0).ravel())
                scores.append(np.exp(-5 * error) * rng.uniform(0.5, 1))
                classes.append(rng.integers(schema.num_classes) if wrong else annotation["category_id"])
                keypoints.append(found)
        yield instances(boxes, scores, classes, keypoints, schema)


def evaluated(evaluator: DatasetEvaluator, records: Sequence[dict], outputs: Sequence[Instances]) -> dict:
    """The results; the evaluator gets copies, for COCOEvaluator changes what it gets."""
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [{"instances": deepcopy(output)}])
    return evaluator.evaluate()


def assert_same_on(name):
    """On a registered data set, with detections near its garments."""
    records, schema = DatasetCatalog.get(name), MetadataCatalog.get(name).keypoint_schema
    outputs = list(near_the_truth(records, schema))
    ours = evaluated(FashionEvaluator(name), records, outputs)
    theirs = COCOEvaluator(name, kpt_oks_sigmas=list(schema.sigmas))
    assert 10 < ours["keypoints"]["AP"] < 95
    assert_same_digits(ours, evaluated(theirs, records, outputs), schema.class_names)
