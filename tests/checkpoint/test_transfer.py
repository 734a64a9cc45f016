"""Weights of one schema for a model of another: layers give the same for what both schemas name."""

import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from kgdet_d2 import schema as schemas
from kgdet_d2.checkpoint.checkpointer import FashionCheckpointer
from kgdet_d2.checkpoint.transfer import transfer
from kgdet_d2.config import load_config
from kgdet_d2.schema import DEEPFASHION2, schema_from_description

# Some landmarks of DeepFashion2's trousers, in another order and spelling, and a new one; and a new class.
TROUSERS = ["Left waist", "waist centre", "waistRight", "belt_loop", "crotch"]
MINE = schema_from_description(
    {
        "name": "mine",
        "classes": {
            "Hat": {"landmarks": ["brim_left", "brim_right"]},
            "Trousers": {"landmarks": TROUSERS},
            "Short-Sleeve Top": {"landmarks": ["hem_left", "hem_right"]},
        },
    }
)
TOPS, PANTS = 0, 7  # DeepFashion2's
CLASSES = {1: PANTS, 2: TOPS}  # mine -> DeepFashion2's
OF_PANTS = {
    "Left waist": "waist_left",
    "waist centre": "waist_centre",
    "waistRight": "waist_right",
    "crotch": "crotch",
}


def slots():
    """Mine -> DeepFashion2's slot, of the landmarks that both name."""
    found = {}
    for own, other in OF_PANTS.items():
        index = DEEPFASHION2.keypoint_names[PANTS].index(other)
        found[2 + TROUSERS.index(own)] = DEEPFASHION2.slots[PANTS][index]
    for own, other in enumerate(["hem_left", "hem_right"]):
        found[7 + own] = DEEPFASHION2.slots[TOPS][DEEPFASHION2.keypoint_names[TOPS].index(other)]
    return found


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    monkeypatch.setattr(schemas, "_SCHEMAS", dict(schemas._SCHEMAS))
    DatasetCatalog.register("mine_train", list)
    MetadataCatalog.get("mine_train").keypoint_schema = MINE
    yield
    DatasetCatalog.remove("mine_train")
    MetadataCatalog.remove("mine_train")


def config(system, *opts):
    return load_config(f"sample/{system}.yaml", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts])


def models(system, *opts):
    """A model of DeepFashion2, and one of mine that has taken its weights."""
    torch.manual_seed(0)
    source = build_model(config(system, *opts))
    for weight in source.parameters():
        torch.nn.init.normal_(weight)
    target = build_model(config(system, "DATASETS.TRAIN", "('mine_train',)", *opts))
    weights, _ = transfer(source.state_dict(), target.state_dict(), DEEPFASHION2, MINE)
    target.load_state_dict(weights, strict=False)
    return source, target


def outputs(source, target, name, features):
    """What both models' layer of this name gives for random features, the features first."""
    torch.manual_seed(1)
    layers = [model.get_submodule(name) for model in (source, target)]
    inputs = torch.randn(features)
    with torch.no_grad():
        return [
            layer(inputs).flatten(2).movedim(1, 0) if len(features) == 4 else layer(inputs).T
            for layer in layers
        ]


@pytest.mark.parametrize(
    ("system", "layer", "features"),
    [
        ("kgdet_tiny", "head.stages.0.cls_score", (2, 64, 3, 3)),
        ("kgdet_tiny", "head.stages.2.cls_score", (2, 128, 3, 3)),
        ("reppoints_tiny", "head.stages.1.classes.output", (2, 64, 3, 3)),
        ("fcos_tiny", "head.cls_score", (2, 64, 3, 3)),
        ("match_rcnn_tiny", "roi_heads.mask_head.predictor", (2, 64, 3, 3)),
    ],
)
def test_classes(system, layer, features):
    theirs, ours = outputs(*models(system), layer, features)
    assert len(ours) == 3
    for own, other in CLASSES.items():
        assert torch.equal(ours[own], theirs[other])


def test_classes_of_anchors():
    theirs, ours = (
        logits.unflatten(0, (9, -1))
        for logits in outputs(*models("retinanet_tiny"), "head.cls_score", (1, 64, 3, 3))
    )
    for own, other in CLASSES.items():
        assert torch.equal(ours[:, own], theirs[:, other])


def test_classes_of_boxes():
    source, target = models("match_rcnn_tiny")
    theirs, ours = outputs(source, target, "roi_heads.box_predictor.cls_score", (5, 256))
    for own, other in {**CLASSES, 3: 13}.items():  # the background is last
        torch.testing.assert_close(ours[own], theirs[other])
    theirs, ours = outputs(source, target, "roi_heads.box_predictor.bbox_pred", (5, 256))
    for own, other in CLASSES.items():
        torch.testing.assert_close(ours[4 * own : 4 * own + 4], theirs[4 * other : 4 * other + 4])


@pytest.mark.parametrize(
    ("system", "layer", "features", "size"),
    [
        ("kgdet_tiny", "head.stages.1.keypoint_offsets", (2, 128, 3, 3), 2),
        ("reppoints_kp_tiny", "head.stages.0.keypoints.output", (2, 64, 3, 3), 2),
        ("match_rcnn_tiny", "roi_heads.keypoint_head.score_lowres", (2, 64, 3, 3), 1),
    ],
)
def test_landmarks(system, layer, features, size):
    theirs, ours = outputs(*models(system), layer, features)
    assert len(slots()) == 6
    for own, other in slots().items():
        torch.testing.assert_close(
            ours[size * own : size * (own + 1)], theirs[size * other : size * (other + 1)]
        )


def test_visibility_of_landmarks():
    selection = ("MODEL.KGDET.AGGREGATION", "selection", "MODEL.KGDET.COLUMNS", "[9]")
    theirs, ours = outputs(
        *models("kgdet_tiny", *selection), "head.stages.0.encode_points.visibility", (2, 64, 3, 3)
    )
    for own, other in slots().items():
        assert torch.equal(ours[own], theirs[other])


def test_points_are_encoded_alike_from_the_shared_landmarks():
    source, target = models("kgdet_tiny")
    torch.manual_seed(1)
    ours, theirs = torch.zeros(1, 2 * 9, 1, 1), torch.zeros(1, 2 * 294, 1, 1)
    for own, other in slots().items():
        offset = torch.randn(2)
        ours[0, 2 * own : 2 * own + 2, 0, 0] = theirs[0, 2 * other : 2 * other + 2, 0, 0] = offset
    encode = [model.head.stages[0].encode_points for model in (source, target)]
    torch.testing.assert_close(encode[1](ours), encode[0](theirs))


def test_kinds_of_landmarks():
    source, target = models("kgdet_plus_tiny")
    theirs, ours = source.refiner, target.refiner
    kind = {
        name: DEEPFASHION2.kinds[slot]
        for slot, name in zip(DEEPFASHION2.slots[PANTS], DEEPFASHION2.keypoint_names[PANTS], strict=True)
    }
    for own, other in OF_PANTS.items():
        row, expected = MINE.kinds[2 + TROUSERS.index(own)], kind[other]
        assert torch.equal(ours.heat.weight[row], theirs.heat.weight[expected])
        assert torch.equal(ours.kind_embedding.weight[row], theirs.kind_embedding.weight[expected])
    assert torch.equal(ours.class_embedding.weight[1], theirs.class_embedding.weight[PANTS])


def test_what_is_not_shared_stays_as_it_was():
    fresh = build_model(config("kgdet_tiny", "DATASETS.TRAIN", "('mine_train',)")).state_dict()
    source = build_model(config("kgdet_tiny")).state_dict()
    made, table = transfer(source, fresh, DEEPFASHION2, MINE)
    name = "head.stages.0.keypoint_offsets.weight"
    assert torch.equal(made[name][:4], fresh[name][:4])  # of hats
    belt = 2 * (2 + TROUSERS.index("belt_loop"))
    assert torch.equal(made[name][belt : belt + 2], fresh[name][belt : belt + 2])
    rows = {tuple(row.split()[:1]): row for row in table.splitlines()}
    assert "anew" in rows[("Hat",)] and "0 of 2" in rows[("Hat",)]
    assert "4 of 5" in rows[("Trousers",)] and rows[("Trousers",)].endswith("belt_loop")
    assert "kinds of landmarks taken: 6 of 9" in table


def test_nothing_in_common():
    hats = schema_from_description({"name": "hats", "classes": {"Hat": {"landmarks": ["a", "b"]}}})
    source = build_model(config("kgdet_tiny")).state_dict()
    made, table = transfer(source, source, DEEPFASHION2, hats)
    assert "0 of 2" in table
    assert {name for name in source if name not in made} == {
        name
        for name in source
        if any(part in name for part in ("cls_score", "keypoint_offsets", "encode_points.weight"))
    }


# --- as a user loads weights ---


def test_training_starts_from_weights_of_other_garments(tmp_path, caplog):
    cfg = config("kgdet_tiny")
    FashionCheckpointer(build_model(cfg), str(tmp_path), cfg=cfg).save("theirs")
    own = config("kgdet_tiny", "DATASETS.TRAIN", "('mine_train',)")
    model = build_model(own)
    checkpointer = FashionCheckpointer(model, cfg=own)
    with caplog.at_level(logging.INFO):
        checkpointer.load(str(tmp_path / "theirs.pth"), checkpointables=[])
    assert "class of mine" in caplog.text and "belt_loop" in caplog.text
    saved = torch.load(tmp_path / "theirs.pth", weights_only=True)["model"]
    assert torch.equal(
        model.head.stages[0].cls_score.weight[1], saved["head.stages.0.cls_score.weight"][PANTS]
    )


def test_a_whole_model_of_other_garments_is_refused(tmp_path):
    """Though the shapes are the same."""
    other = schema_from_description(
        {
            "name": "theirs",
            "classes": {
                "Coat": {"landmarks": ["a", "b"]},
                "Trousers": {"landmarks": TROUSERS},
                "Top": {"landmarks": ["a", "b"]},
            },
        }
    )
    cfg = config("kgdet_tiny", "DATASETS.TRAIN", "('mine_train',)")
    FashionCheckpointer(build_model(cfg), str(tmp_path), cfg=cfg).save("mine")
    DatasetCatalog.register("theirs_train", list)
    MetadataCatalog.get("theirs_train").keypoint_schema = other
    try:
        theirs = config("kgdet_tiny", "DATASETS.TRAIN", "('theirs_train',)")
        with pytest.raises(
            ValueError, match=r"mine\.pth: expected weights of .*'theirs', got those of 'mine': classes"
        ):
            FashionCheckpointer(build_model(theirs), cfg=theirs).load(str(tmp_path / "mine.pth"))
    finally:
        DatasetCatalog.remove("theirs_train")
        MetadataCatalog.remove("theirs_train")
