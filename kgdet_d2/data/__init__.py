"""Registered datasets, and the loaders and mapper that feed a network from them.

Importing registers the datasets below ``$DETECTRON2_DATASETS``.
"""

import os

from kgdet_d2.data.dataset import FashionDataset, fashion_dataset, training_dataset
from kgdet_d2.data.loaders import ImagePairs, TestPhotos, build_pair_train_loader, build_train_loader
from kgdet_d2.data.mapper import FashionDatasetMapper
from kgdet_d2.data.register import register_all, register_fashion
from kgdet_d2.structures.annotations import AnnotationTable

register_all(os.environ.get("DETECTRON2_DATASETS", "datasets"))

__all__ = [
    "AnnotationTable",
    "FashionDataset",
    "FashionDatasetMapper",
    "ImagePairs",
    "TestPhotos",
    "build_pair_train_loader",
    "build_train_loader",
    "fashion_dataset",
    "register_all",
    "register_fashion",
    "training_dataset",
]
