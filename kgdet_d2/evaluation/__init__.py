"""How good detections are: box AP and landmark AP by COCO's rules, landmark errors, kinds of errors."""

from kgdet_d2.evaluation.evaluator import FashionEvaluator
from kgdet_d2.evaluation.ground_truth import GroundTruth
from kgdet_d2.evaluation.predictions import Predictions

__all__ = ["FashionEvaluator", "GroundTruth", "Predictions"]
