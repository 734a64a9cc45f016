"""Drawn photos of clothed people, annotated as DeepFashion2 is: a sample to learn on without the data set."""

from kgdet_d2.synthetic.generate import SPLITS, Photo, generate_photo

GENERATOR_VERSION = 1  # raised whenever the same arguments give other photos

__all__ = ["GENERATOR_VERSION", "SPLITS", "Photo", "generate_photo"]
