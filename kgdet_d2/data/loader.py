"""The loader of a training on single photos. That of pairs is in :mod:`kgdet_d2.data.pairs`."""

from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.data.common import AspectRatioGroupedDataset
from torch.utils.data import DataLoader

from kgdet_d2.data.dataset import training_dataset
from kgdet_d2.data.mapper import FashionDatasetMapper


def build_train_loader(cfg: CfgNode) -> Iterable[list[dict]]:
    """Endless batches of mapped photos from ``DATASETS.TRAIN``, as Detectron2's loader makes them.

    Its batches of photos of like aspect ratio are made in the workers, each of which maps one batch ahead.
    Detectron2 makes them where the model is, out of photos that arrive one by one, two a worker mapped ahead.

    Raises:
        ValueError: the datasets differ in their classes or landmarks, or no photo is left.
    """
    dataset = training_dataset(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    mapper = FashionDatasetMapper(cfg, is_train=True)
    loader = build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)
    if not (cfg.DATALOADER.ASPECT_RATIO_GROUPING and cfg.DATALOADER.NUM_WORKERS):
        return loader
    photos = loader.dataset.dataset
    return DataLoader(
        AspectRatioGroupedDataset(photos, loader.batch_size),
        batch_size=None,
        collate_fn=trivial_batch_collator,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        prefetch_factor=max(1, 2 // loader.batch_size),
        worker_init_fn=worker_init_reset_seed,
    )
