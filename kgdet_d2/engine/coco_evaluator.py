"""Detectron2's COCOEvaluator on registered datasets, ``TEST.EVALUATOR`` "coco"."""

import os
from collections.abc import Mapping, Sequence

from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Instances

from kgdet_d2.data.coco_json import offer_coco_json
from kgdet_d2.evaluation import load_ground_truth


def build_coco_evaluator(
    dataset_name: str, *, kpt_oks_sigmas: Sequence[float], keypoint_scores: bool, output_dir: str
) -> DatasetEvaluator:
    """Build COCOEvaluator, whose COCO file is made unless the dataset has one of its own.

    Args:
        dataset_name: a registered dataset whose landmarks are known.
        kpt_oks_sigmas: K sigmas over the global slots; none: the dataset's own.
        keypoint_scores: the model's landmarks have scores of their own, see :class:`ScoredApart`.
        output_dir: the folder for its files.

    Raises:
        ValueError: see :func:`load_ground_truth`.
    """
    sigmas = list(load_ground_truth(dataset_name, kpt_oks_sigmas).schema.sigmas)
    offer_coco_json(dataset_name)
    if not keypoint_scores:
        return COCOEvaluator(dataset_name, output_dir=output_dir, kpt_oks_sigmas=sigmas)
    return ScoredApart(
        {
            task: COCOEvaluator(
                dataset_name, [task], output_dir=os.path.join(output_dir, task), kpt_oks_sigmas=sigmas
            )
            for task in ("bbox", "keypoints")
        }
    )


class ScoredApart(DatasetEvaluator):
    """Two evaluators, since one ranks boxes and landmarks by the same score.

    Args:
        evaluators: of "bbox" and of "keypoints"; the second gets ``keypoint_scores`` as the scores.
    """

    def __init__(self, evaluators: Mapping[str, DatasetEvaluator]) -> None:
        self.evaluators = evaluators

    def reset(self) -> None:
        """Forget all predictions."""
        for evaluator in self.evaluators.values():
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the predictions of a batch, see :class:`DatasetEvaluator`; they are not modified."""
        found = [output["instances"] for output in outputs]
        parts = {"bbox": map(_boxes, found), "keypoints": map(_keypoints, found)}
        for task, evaluator in self.evaluators.items():
            evaluator.process(inputs, [{"instances": instances} for instances in parts[task]])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the results in the main process; in others return an empty dict."""
        results = {}
        for evaluator in self.evaluators.values():
            results.update(evaluator.evaluate())
        return results


def _boxes(instances: Instances) -> Instances:
    fields = {name: instances.get(name) for name in ("pred_boxes", "scores", "pred_classes")}
    return Instances(instances.image_size, **fields)


def _keypoints(instances: Instances) -> Instances:
    """Return a copy, since COCOEvaluator takes half a pixel off the landmarks where they are."""
    return Instances(
        instances.image_size,
        pred_boxes=instances.pred_boxes,
        scores=instances.keypoint_scores,
        pred_classes=instances.pred_classes,
        pred_keypoints=instances.pred_keypoints.clone(),
    )
