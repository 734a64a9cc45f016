"""Box AP and landmark AP of a registered fashion dataset."""

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from kgdet_d2.evaluation.average_precision import average_precisions
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions
from kgdet_d2.utils.catalog import schema_of_dataset
from kgdet_d2.utils.io import atomic_write, write_json_array

logger = logging.getLogger(__name__)


def load_ground_truth(dataset_name: str) -> AnnotationTable:
    """Return the annotations of a registered dataset, to evaluate on.

    Args:
        dataset_name: a dataset whose metadata holds ``keypoint_schema``. Where the catalog gives a
            ``FashionDataset``, these are its own columns, without the garments that its dicts leave out
            because their box has no area; otherwise it gives dataset dicts with class-local landmarks.

    Raises:
        ValueError: see :func:`schema_of_dataset` and :meth:`AnnotationTable.from_dataset_dicts`.
    """
    schema = schema_of_dataset(dataset_name)
    dataset = DatasetCatalog.get(dataset_name)
    annotations = getattr(dataset, "annotations", None)
    if isinstance(annotations, AnnotationTable):
        return annotations.with_area()
    return AnnotationTable.from_dataset_dicts(dataset, schema)


class FashionEvaluator(DatasetEvaluator):
    """COCO's box AP and landmark AP, both means over the classes that occur in the ground truth.

    Results are in percent, nan where there is no ground truth: "bbox" and "keypoints" as COCOEvaluator has
    them, with COCO's AR beside, and "keypoints_visible"; each is an :meth:`AveragePrecision.summary`.
    Under "keypoints" visible and occluded landmarks count, under "keypoints_visible" visible ones only; a
    model whose instances have no pred_keypoints has neither. The numbers are those of pycocotools on the
    landmarks of all classes with one sigma each.

    Images of the dataset that were not predicted count as missed, with a warning. Where the dataset has no
    garment, as photos without annotation, predictions are written, nothing is scored, and the results are
    empty.

    Args:
        dataset_name: a registered dataset, see :func:`load_ground_truth`.
        kpt_oks_sigmas: K sigmas over the global slots; none: the schema's.
        distributed: gather the predictions of all processes; otherwise evaluate this one's.
        output_dir: the folder for ``predictions.npz``, see :class:`Predictions`; None: nothing is written.
        max_dets_per_image: the most detections of one class that count, best scores first; for boxes only.
        use_fast_impl: compute with faster-coco-eval; otherwise with pycocotools, which is slower and gives
            the same numbers.
        save_coco_results: write ``coco_instances_results.json``, too, see :meth:`Predictions.coco_results`.
            It takes some 5 KB a detection.

    Raises:
        ValueError: when the metadata has no schema, or the sigmas do not fit the schema.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        kpt_oks_sigmas: Sequence[float] = (),
        distributed: bool = True,
        output_dir: str | None = None,
        max_dets_per_image: int = 100,
        use_fast_impl: bool = True,
        save_coco_results: bool = False,
    ) -> None:
        self.dataset_name = dataset_name
        self.distributed = distributed
        self.output_dir = output_dir
        self.max_dets_per_image = max_dets_per_image
        self.backend = "faster-coco-eval" if use_fast_impl else "pycocotools"
        self.save_coco_results = save_coco_results
        self.ground_truth = load_ground_truth(dataset_name)
        schema = self.ground_truth.schema
        self.sigmas = list(kpt_oks_sigmas) or list(schema.sigmas)
        if len(self.sigmas) != schema.num_keypoints:
            raise ValueError(
                f"OKS sigmas (TEST.KEYPOINT_OKS_SIGMAS) for dataset {dataset_name!r}: expected "
                f"{schema.num_keypoints}, one per landmark of {schema.name!r}, got {len(self.sigmas)}"
            )
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: list[Predictions] = []
        self._predicted: set[int] = set()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the predictions of a batch; they are not modified.

        Args:
            inputs: dicts with ``image_id``.
            outputs: the model's, dicts with ``instances`` in the original image's continuous pixels.

        Raises:
            ValueError: naming the image, when it is not in the dataset or was predicted before, or a
                prediction is malformed or has a box, score or landmark that is not finite.
        """
        truth = self.ground_truth
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            if image_id in self._predicted:
                raise ValueError(f"image {image_id}: predicted more than once")
            (row,) = truth.image_rows([image_id])
            prediction = Predictions.from_instances(
                output["instances"],
                image_id=image_id,
                schema=truth.schema,
                wide_classes=truth.no_visible_by_class[row],
            )
            self._predictions.append(prediction)
            self._predicted.add(image_id)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the results in the main process; in others return an empty dict.

        Raises:
            ValueError: naming an image that two processes have predicted.
        """
        truth, schema = self.ground_truth, self.ground_truth.schema
        self._predictions = [Predictions.concatenate(self._predictions, schema)]
        gathered = self._predictions
        if self.distributed:
            comm.synchronize()
            gathered = comm.gather(gathered[0], dst=0)
            if not comm.is_main_process():
                return {}
        predictions = gathered[0] if len(gathered) == 1 else Predictions.concatenate(gathered, schema)
        missing = len(truth) - len(predictions)
        if missing:
            logger.warning(
                "%s: %d of %d photos were not predicted; their garments count as missed",
                *(self.dataset_name, missing, len(truth)),
            )
        results = self._scores(predictions)
        if self.output_dir:
            self._save(predictions, self.output_dir)
        return results

    def _scores(self, predictions: Predictions) -> dict[str, dict[str, float]]:
        truth = self.ground_truth
        if not truth.num_garments:
            logger.info("%s: there is no garment in its annotations, so nothing to score", self.dataset_name)
            return {}
        curves = average_precisions(
            truth,
            predictions,
            sigmas=self.sigmas,
            max_detections=self.max_dets_per_image,
            backend=self.backend,
        )
        results = {task: whole.summary() for task, (whole,) in curves.items()}
        log_scores(results, truth)
        return results

    def _save(self, predictions: Predictions, folder: str) -> None:
        """Write the predictions; where that fails it is logged, and the scores are returned all the same."""
        try:
            predictions.save(os.path.join(folder, "predictions.npz"))
            if self.save_coco_results:
                with atomic_write(os.path.join(folder, "coco_instances_results.json")) as file:
                    write_json_array(file, predictions.coco_results())
        except OSError as error:
            logger.error("the predictions could not be written: %s", error)


def log_scores(results: Mapping[str, Mapping[str, float]], ground_truth: AnnotationTable) -> None:
    """Log the results: a small table for each task, and one of AP by class."""
    for task, scores in results.items():
        overall = {name: score for name, score in scores.items() if not name.startswith("AP-")}
        logger.info("Evaluation results for %s:\n%s", task, create_small_table(overall))
    names = ground_truth.schema.class_names
    counts = np.bincount(ground_truth.category_id, minlength=len(names)).tolist()
    rows = []
    for name, count in zip(names, counts, strict=True):
        rows.append([name, count, *(scores[f"AP-{name}"] for scores in results.values())])
    headers = ["category", "garments", *(f"{task} AP" for task in results)]
    table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
    logger.info("Per-category AP:\n%s", table)
