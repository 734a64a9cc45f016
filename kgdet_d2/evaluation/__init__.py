"""Evaluation of detections: box AP, landmark AP, landmark errors, kinds of errors, oracles, retrieval."""

from kgdet_d2.evaluation.evaluator import FashionEvaluator, load_ground_truth
from kgdet_d2.evaluation.retrieval import RetrievalEvaluator
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions

__all__ = ["AnnotationTable", "FashionEvaluator", "Predictions", "RetrievalEvaluator", "load_ground_truth"]
