"""Detectron2's COCOEvaluator on registered data sets, beside ours."""

import math
import runpy

import numpy as np
import pytest
import torch
from detectron2.evaluation import COCOEvaluator

from kgdet_d2 import cli
from kgdet_d2.config import load_config
from kgdet_d2.data import register_fashion
from kgdet_d2.engine.coco_evaluator import ScoredApart, build_coco_evaluator
from kgdet_d2.engine.trainer import Trainer
from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable
from tests.helpers.found import assert_same_digits, assert_same_on, evaluated
from tests.helpers.registered import NAME


@pytest.fixture(params=[DEEPFASHION2, FLD], ids=lambda schema: schema.name)
def scene(request, catalog, make_scene, tmp_path):
    """Registered as files are, whose dicts have arrays of the landmarks of a garment's class."""
    scene = make_scene(np.random.default_rng(0), request.param, images=20, crowds=0.1)
    for output in scene.outputs:  # COCO ignores a box of negative area, which no model predicts
        output.pred_boxes.tensor = output.pred_boxes.tensor.view(-1, 2, 2).sort(dim=1).values.view(-1, 4)
    table = AnnotationTable.from_dataset_dicts(scene.records, scene.schema)
    table.save(tmp_path / "table.npz")
    register_fashion(NAME, scene.schema, tmp_path, tmp_path / "table.npz")
    return scene


def results(scene, evaluator):
    return evaluated(evaluator, scene.records, scene.outputs)


def test_as_it_stands(scene, tmp_path):
    theirs = COCOEvaluator(NAME, output_dir=str(tmp_path), kpt_oks_sigmas=list(scene.schema.sigmas))
    ours = results(scene, FashionEvaluator(NAME))
    assert 10 < ours["keypoints"]["AP"] < 90
    assert_same_digits(ours, results(scene, theirs), scene.schema.class_names)


@pytest.mark.parametrize("factor", [None, 0.3])
def test_sigmas(scene, tmp_path, factor):
    sigmas = [] if factor is None else [factor * sigma for sigma in scene.schema.sigmas]
    options = {"kpt_oks_sigmas": sigmas, "keypoint_scores": False, "output_dir": str(tmp_path)}
    ours, theirs = FashionEvaluator(NAME, kpt_oks_sigmas=sigmas), build_coco_evaluator(NAME, **options)
    assert type(theirs) is COCOEvaluator
    assert_same_digits(results(scene, ours), results(scene, theirs), scene.schema.class_names)


def test_landmarks_with_scores_of_their_own(scene, tmp_path):
    for output in scene.outputs:
        output.keypoint_scores = torch.rand(len(output), generator=torch.Generator().manual_seed(0))
    kept = [output.pred_keypoints.clone() for output in scene.outputs]
    options = {"kpt_oks_sigmas": (), "keypoint_scores": True, "output_dir": str(tmp_path)}
    theirs = results(scene, build_coco_evaluator(NAME, **options))
    assert all(
        torch.equal(output.pred_keypoints, each) for output, each in zip(scene.outputs, kept, strict=True)
    )
    ours = results(scene, FashionEvaluator(NAME))
    assert_same_digits(ours, theirs, scene.schema.class_names)
    by_boxes = results(scene, COCOEvaluator(NAME, kpt_oks_sigmas=list(scene.schema.sigmas)))
    assert by_boxes["keypoints"]["AP"] != ours["keypoints"]["AP"]


def test_boxes_alone(scene):
    for output in scene.outputs:
        output.remove("pred_keypoints")
    ours, theirs = results(scene, FashionEvaluator(NAME)), results(scene, COCOEvaluator(NAME))
    assert_same_digits(ours, theirs, scene.schema.class_names, tasks=("bbox",))


def test_masks(scene):
    """A model that predicts them, of garments that were not outlined."""
    for record, output in zip(scene.records, scene.outputs, strict=True):
        output.pred_masks = torch.zeros(len(output), record["height"], record["width"], dtype=torch.bool)
    theirs = results(scene, COCOEvaluator(NAME, kpt_oks_sigmas=list(scene.schema.sigmas)))
    assert theirs.keys() == {"bbox", "keypoints", "segm"}


def test_nothing_is_found(scene):
    scene.outputs = [output[:0] for output in scene.outputs]
    assert math.isnan(results(scene, COCOEvaluator(NAME))["bbox"]["AP"])


def test_photos_without_annotation(catalog, make_scene, tmp_path):
    scene = make_scene(np.random.default_rng(0), images=3, most_garments=0)
    AnnotationTable.from_dataset_dicts(scene.records, scene.schema).save(tmp_path / "table.npz")
    register_fashion(NAME, scene.schema, tmp_path, tmp_path / "table.npz")
    assert results(scene, COCOEvaluator(NAME)) == results(scene, FashionEvaluator(NAME)) == {}


def test_dicts_that_were_registered_without_a_file(catalog, make_scene, tmp_path):
    scene = make_scene(np.random.default_rng(1), images=12)
    catalog(scene.records, scene.schema)
    options = {"kpt_oks_sigmas": (), "keypoint_scores": False, "output_dir": str(tmp_path)}
    theirs = results(scene, build_coco_evaluator(NAME, **options))
    assert_same_digits(results(scene, FashionEvaluator(NAME)), theirs, scene.schema.class_names)


def test_on_the_synthetic_sample(catalog, tmp_path):
    sample = ["--root", str(tmp_path / "sample"), "--workers", "1"]
    make_synthetic = runpy.run_path("datasets/make_synthetic.py")["main"]
    assert make_synthetic([*sample, "--train", "1", "--validation", "6", "--size", "96"]) == 0
    assert cli.main(["prepare", "deepfashion2", *sample, "--splits", "validation"]) == 0
    table = tmp_path / "sample/annotations/validation.npz"
    register_fashion(NAME, DEEPFASHION2, tmp_path / "sample/validation/image", table)
    assert_same_on(NAME)


def evaluator_of(config, name, *opts):
    return Trainer.build_evaluator(load_config(f"configs/sample/{config}.yaml", list(opts)), name)


def test_the_key(catalog, make_scene, tmp_path):
    scene = make_scene(np.random.default_rng(0), images=3)
    catalog(scene.records, scene.schema)
    coco = ["TEST.EVALUATOR", "coco", "OUTPUT_DIR", str(tmp_path)]
    assert type(evaluator_of("kgdet_tiny", NAME)) is FashionEvaluator
    assert type(evaluator_of("kgdet_tiny", NAME, *coco)) is COCOEvaluator
    assert type(evaluator_of("kgdet_plus_tiny_scratch", NAME, *coco)) is ScoredApart
    with pytest.raises(ValueError, match=r"TEST.EVALUATOR: expected 'fashion' or 'coco', got 'lvis'"):
        evaluator_of("kgdet_tiny", NAME, "TEST.EVALUATOR", "lvis")
