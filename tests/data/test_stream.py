"""The stream of training batches: what stands at a place follows from seed and place alone."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import Dataset

from kgdet_d2.data.images import PhotoError
from kgdet_d2.data.stream import TrainStream, random_choices_of, seed_all

ITEMS, BATCH = 23, 4
GROUPS = np.arange(ITEMS) % 3 == 0


class Numbers(Dataset):
    def __len__(self):
        return ITEMS

    def __getitem__(self, row):
        return row


def draw(row):
    """Stands for a mapper; its augmentations draw from all generators."""
    return {"row": row, "drawn": (random.random(), np.random.rand(), torch.rand(()).item())}  # noqa: NPY002


def make(*, workers=0, groups=None, seed=5, mapper=draw, max_bad_share=0.0):
    return TrainStream(
        Numbers(),
        mapper,
        lambda seed: TrainingSampler(ITEMS, seed=seed),
        batch_size=BATCH,
        num_workers=workers,
        groups=groups,
        seed=seed,
        max_bad_share=max_bad_share,
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["any", "grouped"])
def test_a_stream_that_begins_later_goes_on_alike(workers, groups):
    whole = list(islice(make(groups=groups), 30))
    assert len({batch[0]["drawn"] for batch in whole}) == 30
    for start in (1, 17):
        stream = make(workers=workers, groups=groups, seed=9)
        stream.start_at(start, 5)
        assert list(islice(stream, 30 - start)) == whole[start:]
    if groups is not None:
        assert all(len({bool(groups[item["row"]]) for item in batch}) == 1 for batch in whole)


def test_the_order_is_detectron2_s():
    rows = [item["row"] for batch in islice(make(), 12) for item in batch]
    assert rows == list(islice(TrainingSampler(ITEMS, seed=5), 12 * BATCH))


def test_another_seed_gives_another_stream():
    first, second = (list(islice(make(seed=seed), 5)) for seed in (1, 2))
    assert first != second


def test_a_photo_is_augmented_anew_in_each_epoch():
    seen = {}
    for batch in islice(make(), 3 * ITEMS // BATCH):
        for item in batch:
            seen.setdefault(item["row"], []).append(item["drawn"])
    assert all(len(set(drawn)) == len(drawn) > 1 for drawn in seen.values())


def test_processes_share_the_stream(monkeypatch):
    """Each has its own places; augmentations are of the place, whoever maps it."""
    alone = [item for batch in islice(make(), 12) for item in batch]
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append([item for batch in islice(make(), 6) for item in batch])
    assert [item for pair in zip(*shares, strict=True) for item in pair] == alone


def test_several_items_of_one_place_follow_one_another():
    batches = list(islice(make(mapper=lambda row: [draw(row), draw(row)]), 3))
    for batch in batches:
        assert [item["row"] for item in batch[::2]] == [item["row"] for item in batch[1::2]]
        assert len(batch) == 2 * BATCH and len({item["drawn"] for item in batch}) == 2 * BATCH


def test_the_process_s_own_generators_are_left_alone():
    seed_all(3)
    expected = draw(0)
    seed_all(3)
    next(iter(make()))
    with random_choices_of(1, 2):
        draw(0)
    assert draw(0) == expected


# --- photos that cannot be used ---

BAD = {4, 11}


def draw_unless_bad(row):
    if row in BAD:
        raise PhotoError(f"photo {row}: cannot read the image")
    return draw(row)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["any", "grouped"])
def test_another_photo_takes_the_place_of_a_bad_one(groups, workers, caplog):
    options = {"groups": groups, "mapper": draw_unless_bad, "max_bad_share": 0.1}
    whole = list(islice(make(**options), 20))
    for batch, plain in zip(whole, islice(make(groups=groups), 20), strict=True):
        for item, expected in zip(batch, plain, strict=True):
            assert item["drawn"] == expected["drawn"]  # of the place
            assert item["row"] not in BAD and (item["row"] == expected["row"] or expected["row"] in BAD)
            assert groups is None or groups[item["row"]] == groups[expected["row"]]
    assert sorted(record.message for record in caplog.records) == [
        f"photo {row}: cannot read the image; another photo takes its place" for row in sorted(BAD, key=str)
    ]
    later = make(workers=workers, **options)
    later.start_at(7, 5)
    assert list(islice(later, 13)) == whole[7:]


def test_more_bad_photos_than_allowed_stop_it():
    message = r"photo \d+: .*: 2 of 23 photos cannot be used, more than .*MAX_BAD_SHARE = 0\.04"
    with pytest.raises(PhotoError, match=message):
        list(islice(make(mapper=draw_unless_bad, max_bad_share=0.04), 20))


def test_nothing_but_a_bad_photo():
    stream = TrainStream(
        [11], draw_unless_bad, lambda seed: TrainingSampler(1, seed=seed), batch_size=1, num_workers=0, seed=1
    )
    with pytest.raises(PhotoError, match="none of 100 photos"):
        next(iter(stream))


def test_faults_of_the_program_are_not_taken_for_bad_photos():
    def fail(row):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        next(iter(make(mapper=fail, max_bad_share=1.0)))


def test_seeds_are_of_all_numbers():
    drawn = set()
    for numbers in [(0, 0), (0, 1), (1, 0), (1, 1), (2**40, 3), (3, 2**40)]:
        seed_all(*numbers)
        drawn.add(draw(0)["drawn"])
    assert len(drawn) == 6
    with pytest.raises(ValueError, match="non-negative"):
        seed_all(-1)
