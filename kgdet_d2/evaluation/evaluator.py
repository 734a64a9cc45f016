"""Box AP and landmark AP of a registered fashion dataset."""

import logging
from collections.abc import Sequence

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from pycocotools.cocoeval import COCOeval

from kgdet_d2.evaluation.coco import coco_ground_truth, coco_results, without_detections
from kgdet_d2.schema import KeypointSchema


class FashionEvaluator(COCOEvaluator):
    """COCO's box AP and landmark AP, both means over the classes that occur in the ground truth.

    Landmarks: OKS with variance (2 sigma)^2 and the box's area, at most 20 garments per class and image;
    v = 1 and v = 2 both count; a garment without a labelled landmark is ignored. Boxes: at most
    ``max_dets_per_image`` per class and image. Computed by pycocotools.

    The results, in percent: ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>", ...},
    "keypoints": {"AP", "AP50", "AP75", "APm", "APl", "AP-<class>", ...}}``. What has no ground truth
    is nan and counts in no mean.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        kpt_oks_sigmas: Sequence[float] = (),
        distributed: bool = True,
        output_dir: str | None = None,
        max_dets_per_image: int = 100,
    ) -> None:
        """
        Args:
            dataset_name: a registered dataset of dicts with class-local landmarks, whose metadata holds
                ``keypoint_schema`` and ``thing_classes``.
            kpt_oks_sigmas: K sigmas over the global slots; none: the schema's.
            distributed: gather the predictions of all processes; otherwise evaluate this one's.
            output_dir: where ``coco_instances_results.json`` goes (and ``instances_predictions.pth``, the
                same as torch file); None: nothing is written.
            max_dets_per_image: of one class, best scores first; for boxes only.

        Raises:
            ValueError: when the metadata has no schema, the sigmas do not fit the schema, or the dataset
                has no garment.
        """
        # COCOEvaluator's constructor insists on a COCO file and writes one, landmarks shifted by half a
        # pixel, where there is none. This one sets the same fields with the ground truth in memory.
        self._logger = logging.getLogger(__name__)
        self._distributed = distributed
        self._output_dir = output_dir
        self._use_fast_impl = False
        self._max_dets_per_image = [1, 10, max_dets_per_image]
        self._tasks = ("bbox", "keypoints")
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        self._do_evaluation = True

        self._schema = _schema_of(dataset_name)
        self._kpt_oks_sigmas = list(kpt_oks_sigmas) or list(self._schema.sigmas)
        if len(self._kpt_oks_sigmas) != self._schema.num_keypoints:
            raise ValueError(
                f"OKS sigmas (TEST.KEYPOINT_OKS_SIGMAS) for dataset {dataset_name!r}: expected "
                f"{self._schema.num_keypoints}, one per landmark of {self._schema.name!r}, "
                f"got {len(self._kpt_oks_sigmas)}"
            )
        self._coco_api = coco_ground_truth(DatasetCatalog.get(dataset_name), self._schema)
        if not self._coco_api.anns:
            raise ValueError(f"dataset {dataset_name!r}: expected garments to evaluate on, found none")
        self.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the predictions of a batch; they are not modified.

        Args:
            inputs: dicts with ``image_id``.
            outputs: the model's, dicts with ``instances`` in the original image's continuous pixels.

        Raises:
            ValueError: naming the image, when it is not in the dataset, or a prediction is malformed or
                has a box, score or landmark that is not finite.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            if image_id not in self._coco_api.imgs:
                raise ValueError(
                    f"prediction for image {image_id}: no such image_id among the {len(self._coco_api.imgs)} "
                    f"images of dataset {self._metadata.name!r}"
                )
            instances = coco_results(output["instances"], image_id, self._schema)
            self._predictions.append({"image_id": image_id, "instances": instances})

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        if coco_eval is None:  # no detection in any image: AP is 0 where there is ground truth, not nan
            coco_eval = COCOeval(self._coco_api, without_detections(self._coco_api), iou_type)
            coco_eval.evaluate()
            coco_eval.accumulate()
            coco_eval.summarize()
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def _schema_of(dataset_name: str) -> KeypointSchema:
    schema = MetadataCatalog.get(dataset_name).get("keypoint_schema")
    if schema is None:
        raise ValueError(f"dataset {dataset_name!r}: its metadata lacks keypoint_schema")
    return schema
