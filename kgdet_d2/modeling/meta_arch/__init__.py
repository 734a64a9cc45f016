"""Meta-architectures; importing registers them with Detectron2."""

from kgdet_d2.modeling.meta_arch.fcos import FCOS
from kgdet_d2.modeling.meta_arch.kgdet import KGDet
from kgdet_d2.modeling.meta_arch.reppoints import RepPoints

__all__ = ["FCOS", "KGDet", "RepPoints"]
