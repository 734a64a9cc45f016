"""Meta-architectures; importing registers them with Detectron2."""

from kgdet_d2.modeling.meta_arch.fcos import FCOS
from kgdet_d2.modeling.meta_arch.kgdet import KGDet, RepPoints
from kgdet_d2.modeling.meta_arch.retinanet import FashionRetinaNet

__all__ = ["FCOS", "FashionRetinaNet", "KGDet", "RepPoints"]
