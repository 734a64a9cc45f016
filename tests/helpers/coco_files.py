"""Ground truth as COCO files have it, and plain pycocotools on such files."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def official_truth(scene, visible_only):
    """As in DeepFashion2's own conversion: categories from 1, landmarks of all classes."""
    annotations = []
    for record in scene.records:
        for annotation in record["annotations"]:
            x1, y1, x2, y2 = annotation["bbox"]
            own = np.reshape(annotation["keypoints"], (-1, 3)).copy()
            if visible_only:
                own[own[:, 2] == 1] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": annotation["category_id"] + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "keypoints": scene.schema.scatter(own, annotation["category_id"]).ravel().tolist(),
                    "num_keypoints": int((own[:, 2] > 0).sum()),
                }
            )
    return {
        "images": [{"id": record["image_id"]} for record in scene.records],
        "categories": [{"id": number} for number in range(1, scene.schema.num_classes + 1)],
        "annotations": annotations,
    }


def pycocotools_scores(truth, results, task, sigmas, *, category_id=None):
    """AP, AP50 and AP75 in percent, of all categories or of one.

    Args:
        truth: COCO's annotations.
        results: a list of results, or the path of one.
        task: "bbox", "keypoints" or "keypoints_visible".
        sigmas: of the landmarks.
    """
    coco = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), task.split("_")[0])
        if task != "bbox":
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        if category_id is not None:
            evaluation.params.catIds = [category_id]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return (100 * evaluation.stats[:3]).tolist()
