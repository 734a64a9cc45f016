"""Pairs of a user's and a shop's image, against plain loops, and their loader."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from detectron2.utils import comm

from kgdet_d2.data import AnnotationTable, FashionDataset
from kgdet_d2.data.loaders import ImagePairs, build_pair_train_loader, matching_images
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import Garment, Photo

BOX = np.array([0, 0, 9, 9], np.float32)


def make_dataset(photos):
    """Photos given as (source, pair_id, styles)."""
    keypoints = np.zeros((8, 3), np.float32)
    made = [
        Photo(
            f"{row}.jpg",
            row,
            10,
            10,
            [Garment(8, BOX, keypoints, (), {"style": style}) for style in styles],
            {"source": source, "pair_id": pair_id},
        )
        for row, (source, pair_id, styles) in enumerate(photos)
    ]
    return FashionDataset(AnnotationTable.from_photos(made, DEEPFASHION2), "some/image")


def random_photos(rng, count):
    sources = rng.choice(["user", "shop", "other"], count, p=[0.5, 0.4, 0.1]).tolist()
    pair_ids = rng.integers(1, max(count // 4, 2), count).tolist()
    return [
        (source, pair_id, rng.integers(0, 4, rng.integers(0, 4)).tolist())
        for source, pair_id in zip(sources, pair_ids, strict=True)
    ]


def pairs_by_loops(dataset):
    pairs = set()
    for user, first in enumerate(dataset):
        for shop, second in enumerate(dataset):
            if (first["source"], second["source"]) != ("user", "shop"):
                continue
            if first["pair_id"] != second["pair_id"]:
                continue
            styles = [{garment["style"] for garment in record["annotations"]} for record in (first, second)]
            if (styles[0] & styles[1]) - {0}:
                pairs.add((user, shop))
    return sorted(pairs)


@pytest.mark.parametrize("seed", range(8))
def test_pairs_are_those_of_plain_loops(seed):
    dataset = make_dataset([*random_photos(np.random.default_rng(seed), 40), ("user", 1, [1])])
    rows = matching_images(dataset)
    assert rows.dtype == np.int64 and [tuple(pair) for pair in rows.tolist()] == pairs_by_loops(dataset)


def test_what_makes_a_pair():
    photos = [
        ("user", 5, [1, 0]),
        ("shop", 5, [0, 1, 1]),
        ("shop", 5, [2]),
        ("shop", 6, [1]),
        ("user", 6, [0]),
        ("user", 5, []),
        ("shop", 6, [0]),
    ]
    assert matching_images(make_dataset(photos)).tolist() == [[0, 1]]


def test_a_region_to_ignore_makes_no_pair():
    dataset = make_dataset([("user", 5, [1, 2]), ("shop", 5, [1]), ("shop", 5, [2])])
    crowd = np.array([True, False, False, False])
    dataset = FashionDataset(replace(dataset.annotations, iscrowd=crowd), "some/image")
    assert matching_images(dataset).tolist() == [[0, 2]]


@pytest.mark.parametrize("other", [("user", 1, [1]), ("shop", 2, [1]), ("shop", 1, [0])])
def test_no_pairs(other):
    pairs = ImagePairs(make_dataset([("user", 1, [1]), other]))
    assert len(pairs) == 0
    with pytest.raises(ValueError, match="some/image: expected pairs of matching images, found none"):
        build_pair_train_loader(pairs, mapper=dict, total_batch_size=2, num_workers=0)


def test_a_dataset_without_styles_is_refused(make_garment):
    photo = Photo("1.jpg", 1, 64, 48, [make_garment(8, attributes={})], {"source": "user"})
    dataset = FashionDataset(AnnotationTable.from_photos([photo], DEEPFASHION2), "some/image")
    with pytest.raises(ValueError, match=r"some/image: .*; pair_id, style lacking"):
        ImagePairs(dataset)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pairs_and_a_pass_has_each_once(workers):
    pairs = ImagePairs(make_dataset(random_photos(np.random.default_rng(3), 40)))
    expected = sorted(tuple(pair) for pair in pairs.rows.tolist())
    loader = build_pair_train_loader(pairs, mapper=dict, total_batch_size=4, num_workers=workers)
    seen = []
    for batch in islice(loader, len(pairs)):  # two passes
        assert [record["source"] for record in batch] == ["user", "shop"] * 2
        rows = [record["image_id"] for record in batch]
        seen += [(rows[0], rows[1]), (rows[2], rows[3])]
    assert set(seen) <= set(expected)
    if not workers:
        assert sorted(seen) == sorted(2 * expected)
        assert seen[: len(pairs)] != expected and seen[: len(pairs)] != seen[len(pairs) :]


@pytest.mark.parametrize(("batch", "processes"), [(3, 1), (4, 4), (6, 2)])
def test_half_pairs_are_refused(batch, processes, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    pairs = ImagePairs(make_dataset([("user", 1, [1]), ("shop", 1, [1])]))
    with pytest.raises(ValueError, match=f"pairs of images in each of {processes} processes, got {batch}"):
        build_pair_train_loader(pairs, mapper=dict, total_batch_size=batch, num_workers=0)
