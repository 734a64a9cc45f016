"""Faults that are put into the code by hand: the campaign's own checks notice each."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from kgdet_d2.data.convert import coco_photos, deepfashion2, records
from kgdet_d2.data.register import register_all
from kgdet_d2.data.stream import TrainStream
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures import _columns
from kgdet_d2.structures.annotations import AnnotationTable
from tests.helpers.commands import run
from tests.helpers.full_disk import assert_told_and_nothing_lost
from tests.helpers.garments_lost import assert_all_accounted_for, assert_garments_accounted_for, read_report
from tests.helpers.own_coco import OwnCoco
from tests.helpers.trainings import arguments, assert_same, train, train_until


def notices(campaign, what, message, check):
    """Report whether a check fails with a message, as it should."""

    def noticed():
        with pytest.raises(AssertionError, match=message):
            check()
        return "noticed"

    campaign.each(f"fault put in: {what}", {what: noticed})


@contextmanager
def plain_write(path, *, sync=False):
    """In place of atomic_write: straight under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        yield file


@pytest.mark.reliability
def test_files_that_are_not_written_whole(disk, native_tree, monkeypatch, campaign):
    for module in (records, _columns):
        monkeypatch.setattr(module, "atomic_write", plain_write)
    files = ["validation.npz", "validation_report.tsv"]
    words = ["prepare", "deepfashion2", "--root", native_tree, "--workers", 1, "--output"]

    def check():
        assert_told_and_nothing_lost(disk, files, lambda folder: [*words, folder], left=0)

    notices(campaign, "files written under their final names", "are not as they were", check)


def without_the_last(read):
    """A reader that loses a garment of each photo, and says nothing."""

    def forgetful(*args, **kwargs):
        photo, problems = read(*args, **kwargs)
        return photo and replace(photo, garments=photo.garments[:-1]), problems

    return forgetful


@pytest.mark.reliability
def test_a_converter_that_loses_native_garments(native_tree, tmp_path, monkeypatch, campaign):
    monkeypatch.setattr(deepfashion2, "read_photo", without_the_last(deepfashion2.read_photo))
    where = ["--root", native_tree, "--output", tmp_path / "out", "--workers", 1]
    assert run("prepare", "deepfashion2", *where).status == 0
    table = AnnotationTable.load(tmp_path / "out/validation.npz", DEEPFASHION2)
    report, file = read_report(tmp_path / "out/validation_report.tsv"), native_tree / "validation/annos"

    def check():
        assert_garments_accounted_for(table, report, file / "000002.json")

    notices(campaign, "a native garment lost without a word", "2 garments became 1", check)


@pytest.mark.reliability
def test_a_converter_that_loses_coco_garments(tmp_path, monkeypatch, campaign):
    monkeypatch.setattr(coco_photos, "_read_photo", without_the_last(coco_photos._read_photo))
    own = OwnCoco(tmp_path)
    table = own.prepare()

    def check():
        assert_all_accounted_for(table, own.report(), tmp_path / "train.json")

    notices(campaign, "a COCO annotation lost without a word", "5 annotations: 3 kept", check)


@pytest.mark.reliability
def test_a_stream_that_starts_over(datasets_root, restored_loggers, tmp_path, monkeypatch, campaign):
    register_all(datasets_root)
    train(*arguments("kgdet_tiny", tmp_path / "whole"))
    train_until(4, monkeypatch, *arguments("kgdet_tiny", tmp_path / "stopped"))
    start_at = TrainStream.start_at
    monkeypatch.setattr(TrainStream, "start_at", lambda self, batch, seed: start_at(self, 0, seed))
    train(*arguments("kgdet_tiny", tmp_path / "stopped", "--resume"))

    def check():
        assert_same(tmp_path / "whole", tmp_path / "stopped")

    notices(campaign, "a resumed training that sees the first photos again", "", check)
