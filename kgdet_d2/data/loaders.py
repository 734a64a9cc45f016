"""The training loaders: of single images, and of pairs of a user's and a shop's image."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from kgdet_d2.data.dataset import FashionDataset, training_dataset
from kgdet_d2.data.mapper import FashionDatasetMapper
from kgdet_d2.structures.annotations import item_ids
from kgdet_d2.utils.catalog import check_mirroring

# --- single images ---


def build_train_loader(cfg: CfgNode) -> Iterable[list[dict]]:
    """Build endless batches of mapped images from ``DATASETS.TRAIN``, as Detectron2's loader makes them.

    Its batches of images of like aspect ratio are made in the workers, each of which maps one batch ahead.
    Detectron2 makes them where the model is, out of images that arrive one by one, two a worker mapped ahead.

    Raises:
        ValueError: the datasets have other classes or landmarks than the model, no image is left, or see
            :func:`kgdet_d2.utils.catalog.check_mirroring`.
    """
    check_mirroring(cfg)
    mapper = FashionDatasetMapper(cfg, is_train=True)
    dataset = training_dataset(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    loader = build_detection_train_loader(cfg, mapper=mapper, dataset=dataset)
    if not (cfg.DATALOADER.ASPECT_RATIO_GROUPING and cfg.DATALOADER.NUM_WORKERS):
        return loader
    mapped_images = loader.dataset.dataset
    return DataLoader(
        AspectRatioGroupedDataset(mapped_images, loader.batch_size),
        batch_size=None,
        collate_fn=trivial_batch_collator,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        prefetch_factor=max(1, 2 // loader.batch_size),
        worker_init_fn=worker_init_reset_seed,
    )


# --- pairs ---


class ImagePairs(Dataset):
    """Every pair of a user's and a shop's image that each have a garment of the same item, once.

    The same item: see :func:`kgdet_d2.structures.annotations.item_ids`.

    Args:
        dataset: of images with ``source`` ("user" or "shop") and ``pair_id``, and garments with ``style``.

    Raises:
        ValueError: one of these is missing.
    """

    def __init__(self, dataset: FashionDataset) -> None:
        self.dataset = dataset
        self.rows = matching_images(dataset)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[dict]:
        """Return the dataset dicts of the user's image and of the shop's."""
        user, shop = self.rows[index].tolist()
        return [self.dataset[user], self.dataset[shop]]


def matching_images(dataset: FashionDataset) -> np.ndarray:
    """Find the pairs of images that have a garment of the same item.

    Returns:
        int64 (P, 2), rows of the user's and of the shop's image of each pair, rising.

    Raises:
        ValueError: the dataset has no source, pair_id or style.
    """
    annotations = dataset.annotations
    attributes = {**annotations.photo_attributes, **annotations.garment_attributes}
    lacking = [name for name in ("source", "pair_id", "style") if name not in attributes]
    if lacking:
        raise ValueError(
            f"{dataset.image_root}: pairs need source, pair_id and style; {', '.join(lacking)} lacking"
        )
    image = annotations.garment_image
    item = item_ids(attributes["pair_id"][image], attributes["style"])
    item[annotations.iscrowd] = -1  # a region to ignore shows no item
    source = attributes["source"][image]
    users = np.flatnonzero((item >= 0) & (source == "user"))
    shops = np.flatnonzero((item >= 0) & (source == "shop"))

    # Each user's garment with all the shops' garments of its item, which are neighbours once sorted.
    shops = shops[np.argsort(item[shops], kind="stable")]
    first = np.searchsorted(item[shops], item[users])
    counts = np.searchsorted(item[shops], item[users], side="right") - first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    partners = shops[np.repeat(first, counts) + within]
    return np.unique(np.c_[image[np.repeat(users, counts)], image[partners]], axis=0)


def build_pair_train_loader(
    pairs: ImagePairs, *, mapper: Callable[[dict], dict], total_batch_size: int, num_workers: int
) -> DataLoader:
    """Build endless batches of images, each a user's followed by the shop's of its pair, in random order.

    Args:
        pairs: the images.
        mapper: dataset dict -> what the model takes, for each image by itself.
        total_batch_size: images, two a pair, of all processes together.
        num_workers: of each process.

    Raises:
        ValueError: there are no pairs, or the images of a process are not pairs.
    """
    processes = comm.get_world_size()
    if not len(pairs):
        raise ValueError(f"{pairs.dataset.image_root}: expected pairs of matching images, found none")
    if total_batch_size % (2 * processes):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH: expected pairs of images in each of {processes} processes, "
            f"got {total_batch_size} images"
        )
    return build_detection_train_loader(
        pairs,
        mapper=partial(_map_pair, mapper),
        total_batch_size=total_batch_size // 2,
        aspect_ratio_grouping=False,
        num_workers=num_workers,
        collate_fn=_flatten,
    )


def _map_pair(mapper: Callable[[dict], dict], pair: list[dict]) -> list[dict]:
    return [mapper(record) for record in pair]


def _flatten(pairs: list[list[dict]]) -> list[dict]:
    return list(chain.from_iterable(pairs))
