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
from kgdet_d2.data.convert.records import RecordIssue
from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.schema import FLD
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo


def read_number(number: int, *, bad: frozenset[int] = frozenset()):
    """Photo number n has n % 3 garments; those that are bad are left out."""
    if number in bad:
        return None, [RecordIssue(Path(f"{number}"), "", "photo", "bad", "for the test")]
    rng = np.random.default_rng(number)
    garments = [
        Garment(
            category_id=number % 2,
            box=rng.uniform(size=4).astype(np.float32),
            keypoints=rng.uniform(size=(FLD.num_class_keypoints(number % 2), 3)).astype(np.float32),
            polygons=[rng.uniform(size=(n + 3, 2)).astype(np.float32) for n in range(index)],
            attributes={"variation": number * 10 + index},
        )
        for index in range(number % 3)
    ]
    return Photo(f"{number}.jpg", number, 3, 4, garments, {"source": "x" * (number % 7)}), []


def killed_at_1000(number: int):
    if number == 1_000:
        os.kill(os.getpid(), signal.SIGKILL)
    return None, []


read = partial(read_photos, schema=FLD, description="test")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 41])
@pytest.mark.parametrize("workers", [1, 2])
def test_chunks_join_to_the_columns_of_all_photos(monkeypatch, count, workers):
    monkeypatch.setattr(reading, "_CHUNK", 4)
    bad = frozenset((4, 5, 6, 7, 9))  # a whole chunk and one more
    found, problems = read(partial(read_number, bad=bad), range(count), workers=workers)
    expected = AnnotationTable.from_photos(
        [read_number(number)[0] for number in range(count) if number not in bad], FLD
    )
    assert [problem.path.name for problem in problems] == [str(n) for n in range(count) if n in bad]
    assert list(map(str, FashionDataset(found, ""))) == list(map(str, FashionDataset(expected, "")))
    for name, array in vars(expected).items():
        if isinstance(array, np.ndarray):
            assert getattr(found, name).dtype == array.dtype
    assert found.garment_attributes.keys() == expected.garment_attributes.keys()


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_the_first_problem(workers):
    with pytest.raises(ValueError, match=r"^70: for the test$"):
        read(partial(read_number, bad=frozenset((70, 80))), range(1_000), workers=workers, strict=True)


def test_a_killed_worker_is_an_error():
    with pytest.raises(BrokenProcessPool):
        read(killed_at_1000, range(100_000), workers=2)
    assert not multiprocessing.active_children()


def test_the_bar_counts_photos(capsys):
    read(read_number, range(100))
    assert "test: 100%" in capsys.readouterr().err
