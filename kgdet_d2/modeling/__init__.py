"""The networks. Importing registers backbones and meta-architectures with Detectron2."""

from kgdet_d2.modeling.backbone import LeanFPN, TimmBackbone
from kgdet_d2.modeling.match_rcnn import GTBoxMatchRCNN, MatchRCNN
from kgdet_d2.modeling.meta_arch import FCOS, FashionRetinaNet, KGDet, RepPoints
from kgdet_d2.modeling.optimize import optimize_for_inference

__all__ = [
    "FCOS",
    "FashionRetinaNet",
    "GTBoxMatchRCNN",
    "KGDet",
    "LeanFPN",
    "MatchRCNN",
    "RepPoints",
    "TimmBackbone",
    "optimize_for_inference",
]
