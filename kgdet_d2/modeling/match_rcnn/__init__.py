"""Match R-CNN; importing registers its heads and meta-architecture with Detectron2."""

from kgdet_d2.modeling.match_rcnn.matching_head import MatchingHead
from kgdet_d2.modeling.match_rcnn.meta_arch import GTBoxMatchRCNN, MatchRCNN, MatchRCNNHeads
from kgdet_d2.modeling.match_rcnn.roi_heads import GarmentKeypointHead, GarmentMaskHead
from kgdet_d2.modeling.match_rcnn.sampling import FashionROIHeads, FashionRPN

__all__ = [
    "FashionROIHeads",
    "FashionRPN",
    "GTBoxMatchRCNN",
    "GarmentKeypointHead",
    "GarmentMaskHead",
    "MatchRCNN",
    "MatchRCNNHeads",
    "MatchingHead",
]
