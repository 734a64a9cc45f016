"""The networks. Importing registers backbones and meta-architectures with Detectron2."""

from kgdet_d2.modeling import match_rcnn, meta_arch
from kgdet_d2.modeling.backbone import fpn
from kgdet_d2.modeling.optimize import optimize_for_inference

__all__ = ["fpn", "match_rcnn", "meta_arch", "optimize_for_inference"]
