"""Box AP and landmark AP."""

from kgdet_d2.evaluation.evaluator import FashionEvaluator

__all__ = ["FashionEvaluator"]
