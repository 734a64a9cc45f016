"""Parts of the ground truth at once, against pycocotools for each part by itself, to the last bit."""

import numpy as np
import pytest

from kgdet_d2.evaluation.average_precision import AREAS, Subset, average_precisions
from kgdet_d2.evaluation.coco_backends import PycocotoolsBackend
from kgdet_d2.evaluation.similarity import BoxIoU, ObjectKeypointSimilarity, pairs_by_class
from tests.helpers.columns import columns

TASKS = {
    "bbox": ([1, 10, 100], ("all", "small", "medium", "large")),
    "keypoints": ([20], ("all", "medium", "large")),
    "keypoints_visible": ([20], ("all", "medium", "large")),
}


def one_by_one(truth, predictions, task, subset):
    """Precision and recall of each class by index, matched anew for the subset."""
    limits, areas = TASKS[task]
    ignored = truth.iscrowd.copy()
    if task == "bbox":
        similarity = BoxIoU(truth, predictions)
    else:
        visible = task == "keypoints_visible"
        similarity = ObjectKeypointSimilarity(truth, predictions, visible_only=visible)
        ignored |= truth.num_labelled(visible_only=visible) == 0
    ignored |= False if subset.garments is None else ~subset.garments
    found = {}
    for pairs in pairs_by_class(truth, predictions, max_detections=limits[-1]):
        detections = [
            [{"id": row + 1, "score": predictions.score[row], "area": predictions.area[row]} for row in rows]
            for rows in pairs.detections
        ]
        garments = [
            [
                {
                    "id": row + 1,
                    "area": truth.area[row],
                    "iscrowd": truth.iscrowd[row],
                    "ignore": ignored[row],
                }
                for row in rows
            ]
            for rows in pairs.garments
        ]
        similarities = [
            similarity(*rows) if len(rows[0]) and len(rows[1]) else np.zeros((0, 0))
            for rows in zip(pairs.garments, pairs.detections, strict=True)
        ]
        exists = np.ones(len(pairs.images), bool) if subset.images is None else subset.images[pairs.images]
        found[pairs.class_index] = PycocotoolsBackend(detections, similarities).curves(
            garments, np.flatnonzero(exists), [AREAS[area] for area in areas], limits
        )
    return found


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("levels", [0, 4], ids=["scores differ", "scores tie"])
def test_to_the_last_bit(make_scene, seed, levels):
    rng = np.random.default_rng(seed)
    scene = make_scene(
        rng, images=8, classes=(0, 8), most_garments=7, most_false=20, crowds=0.15, score_levels=levels
    )
    truth, predictions = columns(scene)
    garments, images = rng.random(truth.num_garments) < 0.5, rng.random(len(truth)) < 0.6
    subsets = [
        Subset(),
        Subset(garments=garments),
        Subset(garments=~garments, images=images),
        Subset(garments=np.zeros_like(garments)),
        Subset(images=np.zeros_like(images)),
    ]
    for task, results in average_precisions(truth, predictions, subsets=subsets).items():
        for subset, result in zip(subsets, results, strict=True):
            for index, (precision, recall) in one_by_one(truth, predictions, task, subset).items():
                assert np.array_equal(result.precision[:, :, index], precision[..., -1:])
                assert np.array_equal(result.recall[:, index], recall)


def test_nothing_is_detected(make_scene):
    scene = make_scene(np.random.default_rng(0), images=5, classes=(0,))
    scene.outputs = [output[:0] for output in scene.outputs]
    truth, predictions = columns(scene)
    subsets = [Subset(garments=np.ones(truth.num_garments, bool)), Subset(images=np.ones(len(truth), bool))]
    for results in average_precisions(truth, predictions, subsets=subsets).values():
        assert all(result.summary()["AP"] == 0 for result in results)
