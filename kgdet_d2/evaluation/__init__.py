"""How good detections are: box AP, landmark AP, landmark errors, kinds of errors, retrieval."""

from kgdet_d2.evaluation.evaluator import FashionEvaluator
from kgdet_d2.evaluation.ground_truth import GroundTruth
from kgdet_d2.evaluation.retrieval import RetrievalEvaluator
from kgdet_d2.structures.predictions import Predictions

__all__ = ["FashionEvaluator", "GroundTruth", "Predictions", "RetrievalEvaluator"]
