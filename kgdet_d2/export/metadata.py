"""What an exported file says about itself."""

from typing import Any

from detectron2.config import CfgNode

from kgdet_d2.export.detector import NO_DETECTION, Rules
from kgdet_d2.export.options import ExportOptions
from kgdet_d2.export.sizing import SizeRule
from kgdet_d2.utils.catalog import schema_of_config
from kgdet_d2.utils.io import sha256_of_file
from kgdet_d2.utils.version import VERSION

KEY = "kgdet_d2"  # of the JSON in the format's own metadata
_INPUTS = {
    "images": "uint8 (N, 3, H, W), RGB, each photo at the top left of its frame",
    "sizes": "int64 (N, 2), height and width of each photo in its frame",
}
_EVERYWHERE = {
    "boxes": "float32 (N, L, 4), x1 y1 x2 y2",
    "scores": "float32 (N, L, C), 0..1",
    "keypoints": "float32 (N, L, K, 2), x y, of the slots of all classes",
}
_DETECTIONS = {
    "boxes": "float32 (N, D, 4), x1 y1 x2 y2",
    "scores": "float32 (N, D), 0..1, the best first",
    "classes": f"int64 (N, D), {NO_DETECTION} after an image's last detection, where all else is 0",
    "keypoints": "float32 (N, D, m, 3), x y score, of the detection's class in its order, then 0",
    "keypoint_scores": "float32 (N, D), of a detection's keypoints together",
    "counts": "int64 (N,), detections of each image",
}


def describe(
    cfg: CfgNode,
    options: ExportOptions,
    size_rule: SizeRule,
    rules: Rules,
    outputs: list[str],
    threshold: float,
) -> dict[str, Any]:
    """Return what JSON can express of a model and its export.

    Args:
        cfg: of the model; the file MODEL.WEIGHTS is read.
        options: of the export.
        size_rule: of its input.
        rules: of its detections.
        outputs: names, in order.
        threshold: of the score, below which garments are not worth showing.

    Raises:
        OSError: the weights cannot be read.
    """
    meanings = _DETECTIONS if options.nms else _EVERYWHERE
    return {
        "version": VERSION,
        "system": cfg.MODEL.META_ARCHITECTURE,
        "weights_sha256": sha256_of_file(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None,
        "schema": schema_of_config(cfg).to_dict(),
        "inputs": _INPUTS,
        "outputs": {name: meanings[name] for name in outputs},
        "coordinates": "pixels of the input, x right, y down",
        "colour_order": "RGB",
        "size_rule": size_rule.to_dict(),
        "thresholds": {**rules._asdict(), "shown_score": threshold},
        "aggregation": options.aggregation,
        "batch": options.batch or "dynamic",
        "nms": options.nms,
    }
