"""Damaged annotation files: refused by one line, or read, and then nothing is lost without a word."""

import json
import shutil

import pytest

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable
from tests.helpers.commands import assert_refused, run
from tests.helpers.garments_lost import assert_all_accounted_for, assert_garments_accounted_for, read_report
from tests.helpers.mutations import mutate_json
from tests.helpers.own_coco import OwnCoco

NATIVE = 500
COCO = 500


@pytest.mark.reliability
def test_native_annotations(native_tree, campaign):
    file = native_tree / "validation/annos/000002.json"
    original, output = file.read_bytes(), native_tree.parent / "out"
    arguments = ["prepare", "deepfashion2", "--root", native_tree, "--output", output, "--workers", 1]

    def attempt(rng):
        content = mutate_json(original, rng)
        file.write_bytes(content)
        ended = run(*arguments)
        if ended.status:
            assert_refused(ended, "validation")
            return "refused"
        table = AnnotationTable.load(output / "validation.npz", DEEPFASHION2)
        return assert_garments_accounted_for(table, read_report(output / "validation_report.tsv"), file)

    campaign.run("damaged annotations of DeepFashion2", NATIVE, 60, attempt)


@pytest.mark.reliability
def test_coco_annotations(tmp_path, campaign):
    own = OwnCoco(tmp_path)
    original = json.dumps(own.content).encode()

    def attempt(rng):
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        (tmp_path / "train.json").write_bytes(mutate_json(original, rng))
        ended = run(
            *("prepare", "coco", "--json", tmp_path / "train.json", "--images", tmp_path / "photos"),
            *("--name", "mine", "--output", tmp_path / "mine", "--workers", 1),
        )
        if ended.status:
            assert_refused(ended)
            assert not (tmp_path / "mine").exists(), "something was written all the same"
            return "refused"
        return assert_all_accounted_for(own.load("train"), own.report(), tmp_path / "train.json")

    campaign.run("damaged annotations of COCO", COCO, 61, attempt)
