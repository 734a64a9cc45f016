"""Training and evaluation, and the commands that run on trained models."""

from kgdet_d2.engine.trainer import MatchingTrainer, Trainer, main, setup

__all__ = ["MatchingTrainer", "Trainer", "main", "setup"]
