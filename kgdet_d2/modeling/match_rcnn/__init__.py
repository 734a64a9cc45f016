"""Match R-CNN; importing registers its heads and meta-architecture with Detectron2."""

from kgdet_d2.modeling.match_rcnn.landmark_head import LandmarkHead
from kgdet_d2.modeling.match_rcnn.mask_head import GarmentMaskHead
from kgdet_d2.modeling.match_rcnn.matching_head import MatchingHead
from kgdet_d2.modeling.match_rcnn.meta_arch import GroundTruthBoxes, MatchRCNN, MatchRCNNHeads

__all__ = [
    "GarmentMaskHead",
    "GroundTruthBoxes",
    "LandmarkHead",
    "MatchRCNN",
    "MatchRCNNHeads",
    "MatchingHead",
]
