"""The networks. Importing registers backbones and meta-architectures with Detectron2."""

from kgdet_d2.modeling import fpn, match_rcnn, meta_arch
from kgdet_d2.modeling.inference_mode import for_inference

__all__ = ["for_inference", "fpn", "match_rcnn", "meta_arch"]
