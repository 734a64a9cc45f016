"""Records read by several processes are those read by one."""

import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kgdet_d2.data.convert import parallel as reading
from kgdet_d2.data.convert.parallel import read_photos
from kgdet_d2.data.convert.records import GarmentRecord, PhotoRecord, RecordError, RecordIssue
from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.schema import FLD
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo


def read_number(number: int, *, bad: frozenset[int] = frozenset()):
    """Photo number n has n % 3 garments; those that are bad are left out."""
    if number in bad:
        return None, [RecordIssue(Path(f"{number}"), "", "photo", "bad", "for the test")]
    garments = [read_garment(number, index) for index in range(number % 3)]
    photo = PhotoRecord(
        path=Path(f"{number}.json"),
        file_name=f"{number}.jpg",
        image_id=number,
        width=3,
        height=4,
        garments=garments,
        attributes={"source": "x" * (number % 7)} if number % 2 else {},
    )
    return photo, []


def read_garment(number: int, index: int) -> GarmentRecord:
    """The attribute's value is that of the photo's number; photos 8 to 15 have none."""
    rng = np.random.default_rng((number, index))
    points = rng.uniform(size=(FLD.num_class_keypoints(number % 2), 2))
    return GarmentRecord(
        item=f"item{index}",
        category_id=number % 2,
        box=np.concatenate([rng.uniform(0, 1, 2), rng.uniform(1, 3, 2)]).astype(np.float32),
        keypoints=np.c_[points, rng.integers(0, 3, len(points))].astype(np.float32),
        polygons=[rng.uniform(size=(n + 3, 2)).astype(np.float32) for n in range(index)],
        attributes={} if 8 <= number < 16 else {"variation": number * 10 + index},
    )


def photo_of(number: int) -> Photo:
    """The photo that is made of the record."""
    record, _ = read_number(number)
    garments = [
        Garment(each.category_id, each.box, each.keypoints, each.polygons, each.attributes)
        for each in record.garments
    ]
    return Photo(record.file_name, number, record.width, record.height, garments, record.attributes)


def killed_at_1000(number: int):
    if number == 1_000:
        os.kill(os.getpid(), signal.SIGKILL)
    return None, []


read = partial(read_photos, schema=FLD, source=Path("all"), description="test", names={})


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 41])
@pytest.mark.parametrize("workers", [1, 2])
def test_chunks_join_to_the_columns_of_all_photos(monkeypatch, count, workers):
    monkeypatch.setattr(reading, "_CHUNK", 4)
    bad = frozenset((4, 5, 6, 7, 9))  # a whole chunk and one more
    found, problems = read(partial(read_number, bad=bad), range(count), workers=workers)
    expected = AnnotationTable.from_photos(
        [photo_of(number) for number in range(count) if number not in bad], FLD
    )
    expected_problems = [str(n) for n in range(count) if n in bad]
    if count > 1:
        expected_problems.append("all")  # source is missing in some
    if count > 8:
        expected_problems.append("all")  # and variation
    assert [problem.path.name for problem in problems] == expected_problems
    assert list(map(str, FashionDataset(found, ""))) == list(map(str, FashionDataset(expected, "")))
    for name, array in vars(expected).items():
        if isinstance(array, np.ndarray):
            assert getattr(found, name).dtype == array.dtype
    assert found.photo_attributes.keys() == expected.photo_attributes.keys()
    assert found.garment_attributes.keys() == expected.garment_attributes.keys()


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_the_first_problem(workers):
    with pytest.raises(ValueError, match=r"^70: for the test$"):
        read(partial(read_number, bad=frozenset((70, 80))), range(1_000), workers=workers, strict=True)


def read_lost(number: int):
    """Every garment of class 0 is one that cannot be used."""
    record, problems = read_number(number)
    for garment in record.garments:
        if garment.category_id == 0:
            garment.error = RecordError("bad", "for the test")
    return record, problems


@pytest.mark.parametrize("workers", [1, 2])
def test_a_class_that_is_lost_over_all_chunks_is_an_error(monkeypatch, workers):
    monkeypatch.setattr(reading, "_CHUNK", 2)
    found, problems = read(read_lost, range(4), workers=workers)
    assert found.iscrowd.tolist() == [False, True, True] and len(problems) == 3
    with pytest.raises(ValueError, match=r"^all: class 'upper': 5 of 5 garments cannot be used, 5 of them"):
        read(read_lost, range(10), workers=workers)


def test_a_killed_worker_is_an_error():
    with pytest.raises(BrokenProcessPool):
        read(killed_at_1000, range(100_000), workers=2)
    assert not multiprocessing.active_children()


def test_the_bar_counts_photos(capsys):
    read(read_number, range(100))
    assert "test: 100%" in capsys.readouterr().err
