"""The training loaders: of single images, and of pairs of a user's and a shop's image."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from kgdet_d2.data.dataset import FashionDataset, fashion_dataset, is_wide, training_dataset
from kgdet_d2.data.images import UNUSABLE_PHOTO
from kgdet_d2.data.mapper import FashionDatasetMapper
from kgdet_d2.data.stream import TrainStream
from kgdet_d2.structures.annotations import item_ids
from kgdet_d2.utils.catalog import check_mirroring

logger = logging.getLogger(__name__)

# --- single images ---


def build_train_loader(cfg: CfgNode) -> TrainStream:
    """Build endless batches of mapped images from ``DATASETS.TRAIN``, by Detectron2's samplers.

    Images of a batch are of like aspect ratio, with ``DATALOADER.ASPECT_RATIO_GROUPING``. A worker maps a
    whole batch; Detectron2 makes batches where the model is, out of images that arrive one by one.

    Raises:
        ValueError: the datasets have other classes or landmarks than the model, no image is left, or see
            :func:`kgdet_d2.utils.catalog.check_mirroring`.
    """
    check_mirroring(cfg)
    mapper = FashionDatasetMapper(cfg, is_train=True)
    dataset = training_dataset(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    wide = is_wide(dataset) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    return TrainStream(
        dataset,
        mapper,
        partial(_sampler, cfg, dataset),
        batch_size=images_per_process(cfg.SOLVER.IMS_PER_BATCH),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        groups=wide,
        seed=cfg.SEED if cfg.SEED >= 0 else None,
        max_bad_share=cfg.DATALOADER.MAX_BAD_SHARE,
    )


def images_per_process(total: int) -> int:
    """Return the images of a batch in each process.

    Raises:
        ValueError: their number differs between processes.
    """
    processes = comm.get_world_size()
    if total < 1 or total % processes:
        raise ValueError(f"SOLVER.IMS_PER_BATCH: expected a multiple of {processes} processes, got {total}")
    return total // processes


def _sampler(cfg: CfgNode, dataset: Dataset, seed: int) -> Sampler:
    """Return Detectron2's sampler of ``DATALOADER.SAMPLER_TRAIN``.

    Raises:
        ValueError: there is none of this name.
    """
    name, size = cfg.DATALOADER.SAMPLER_TRAIN, len(dataset)  # type: ignore[arg-type]
    if name == "TrainingSampler":
        return TrainingSampler(size, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        share = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return RandomSubsetTrainingSampler(size, share, seed_shuffle=seed, seed_subset=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    expected = "TrainingSampler, RepeatFactorTrainingSampler or RandomSubsetTrainingSampler"
    raise ValueError(f"DATALOADER.SAMPLER_TRAIN: expected {expected}, got {name!r}")


# --- evaluation ---


class TestPhotos(Sized, Iterable[list[dict]]):
    """Mapped images of a dataset, one at a time; those that cannot be used are reported and left out.

    Args:
        name: of the registered dataset.
        mapper: dataset dict -> what the model takes.
        num_workers: that map.
    """

    def __init__(self, name: str, mapper: Callable[[dict], dict], num_workers: int) -> None:
        self._loader = build_detection_test_loader(
            fashion_dataset(name),
            mapper=partial(_map_if_usable, mapper),
            num_workers=num_workers,
            collate_fn=_join,
        )

    def __len__(self) -> int:
        """Return the number of images, unusable ones included."""
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict]]:
        """Generate batches of one."""
        return filter(None, self._loader)


def _map_if_usable(mapper: Callable[[dict], dict], record: dict) -> list[dict]:
    try:
        return [mapper(record)]
    except UNUSABLE_PHOTO as error:
        logger.warning("%s; it is left out", error)
        return []


def _join(batch: list[list[dict]]) -> list[dict]:
    return [image for images in batch for image in images]


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
    pairs: ImagePairs,
    *,
    mapper: Callable[[dict], dict],
    total_batch_size: int,
    num_workers: int,
    seed: int | None = None,
    max_bad_share: float = 0.0,
) -> TrainStream:
    """Build endless batches of images, each a user's followed by the shop's of its pair, in random order.

    Args:
        pairs: the images.
        mapper: dataset dict -> what the model takes, for each image by itself.
        total_batch_size: images, two a pair, of all processes together.
        num_workers: of each process.
        seed: of the order; None for one that the processes agree on.
        max_bad_share: of the pairs, see :class:`TrainStream`.

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
    return TrainStream(
        pairs,
        partial(_map_pair, mapper),
        lambda seed: TrainingSampler(len(pairs), seed=seed),
        batch_size=total_batch_size // (2 * processes),
        num_workers=num_workers,
        seed=seed,
        max_bad_share=max_bad_share,
    )


def _map_pair(mapper: Callable[[dict], dict], pair: list[dict]) -> list[dict]:
    return [mapper(record) for record in pair]
