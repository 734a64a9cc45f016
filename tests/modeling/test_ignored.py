"""Regions to ignore: what lies in them, by plain loops, and batches of every system that have some."""

import math

import pytest
import torch
from detectron2.structures import Boxes, PolygonMasks
from detectron2.utils.events import EventStorage

from kgdet_d2.modeling.ignored import boxes_ignored, leave_out, locations_ignored, split_ignored
from kgdet_d2.schema import DEEPFASHION2
from tests.helpers.images import image_input
from tests.helpers.regions import half_in, lies_in, with_regions
from tests.helpers.systems import GROUP_NORM, make_model

# --- what lies in a region ---


def random_boxes(generator, count):
    corner = torch.randint(0, 60, (count, 2), generator=generator).float()
    return torch.cat([corner, corner + torch.randint(0, 50, (count, 2), generator=generator)], dim=1)


@pytest.mark.parametrize("regions", [0, 1, 5])
def test_against_plain_loops(regions):
    """Whole numbers, so that many locations are on an edge and many boxes have their half in a region."""
    generator = torch.Generator().manual_seed(0)
    regions, boxes = random_boxes(generator, regions), random_boxes(generator, 300)
    locations = torch.randint(0, 110, (300, 2), generator=generator).float()
    found = locations_ignored(locations, Boxes(regions)).tolist()
    assert found == [lies_in(location, regions.tolist()) for location in locations.tolist()]
    assert any(found) == bool(len(regions))
    found = boxes_ignored(Boxes(boxes), Boxes(regions)).tolist()
    assert found == [half_in(box, regions.tolist()) for box in boxes.tolist()]
    assert any(found) == bool(len(regions))


def test_half_of_a_box_is_enough_but_two_quarters_are_not():
    region = Boxes(torch.tensor([[0.0, 0, 10, 10]]))
    boxes = Boxes(torch.tensor([[5.0, 0, 15, 10], [5.01, 0, 15.01, 10], [10.0, 0, 20, 10], [3.0, 3, 3, 9]]))
    assert boxes_ignored(boxes, region).tolist() == [True, False, False, False]
    two = Boxes(torch.tensor([[0.0, 0, 2.5, 10], [7.5, 0, 10, 10]]))
    assert boxes_ignored(Boxes(torch.tensor([[0.0, 0, 10, 10]])), two).tolist() == [False]


def test_nothing_lies_in_a_region_that_is_not_a_number():
    nowhere = Boxes(torch.tensor([[math.nan, 0, 10, 10]]))
    assert not locations_ignored(torch.tensor([[5.0, 5.0]]), nowhere).any()
    assert not boxes_ignored(Boxes(torch.tensor([[2.0, 2, 5, 5]])), nowhere).any()


def test_no_locations_and_no_boxes():
    region = Boxes(torch.tensor([[0.0, 0, 10, 10]]))
    assert locations_ignored(torch.zeros(0, 2), region).shape == (0,)
    assert boxes_ignored(Boxes(torch.zeros(0, 4)), region).shape == (0,)


def test_garments_and_background_elsewhere_keep_their_labels():
    labels = torch.tensor([3, -1, -2, -1, 0])
    where = torch.tensor([True, True, True, False, False])
    assert leave_out(labels, where, background=-1, ignored=-2).tolist() == [3, -2, -2, -1, 0]
    assert leave_out(labels, where, background=3).tolist() == [-1, -1, -2, -1, 0]
    assert labels.tolist() == [3, -1, -2, -1, 0]


def test_annotations_are_split():
    plain, mixed = (image_input(96, 96, [[5, 5, 60, 90], [20, 5, 60, 40]])["instances"] for _ in range(2))
    mixed = with_regions(mixed, [[0, 0, 9, 9], [1, 1, 8, 8]], order=[2, 1, 3, 0])
    alone = with_regions(image_input(96, 96)["instances"], [[0, 0, 9, 9]])
    garments, regions = split_ignored([plain, mixed, alone])
    assert garments[0] is plain and len(regions[0]) == 0
    assert garments[1].get_fields().keys() == plain.get_fields().keys() and mixed.has("gt_ignored")
    assert garments[1].gt_boxes.tensor.tolist() == [[20, 5, 60, 40], [5, 5, 60, 90]]
    assert regions[1].tensor.tolist() == [[0, 0, 9, 9], [1, 1, 8, 8]]
    assert len(garments[2]) == 0 and regions[2].tensor.tolist() == [[0, 0, 9, 9]]
    assert garments[2].gt_keypoints.tensor.shape == (0, DEEPFASHION2.num_keypoints, 3)
    assert split_ignored([]) == ([], [])


# --- batches of every system ---

FLIP = ["MODEL.KGDET.FLIP_FUSION.ENABLED", True, "MODEL.KGDET.FLIP_FUSION.IN_TRAINING", True]
PLUS = ["MODEL.WEIGHTS", "", "MODEL.FPN.NORM", "GN", "MODEL.KGDET.NORM", "GN", "MODEL.KGDET.STAGE_NORM", ""]
SELECTION = ["MODEL.KGDET.AGGREGATION", "selection", "MODEL.KGDET.COLUMNS", "[9]"]
SPARSE = ["MODEL.KGDET.SPARSE_TRAINING", 4]
DETECTOR = ["MODEL.MATCHING.TRAIN_DETECTOR", True]
SYSTEMS = {
    "KGDet": ("kgdet_tiny", GROUP_NORM),
    "KGDet, flips": ("kgdet_tiny", [*GROUP_NORM, *FLIP]),
    "KGDet, selection": ("kgdet_tiny", [*GROUP_NORM, *SELECTION]),
    "KGDet, sparse": ("kgdet_tiny", [*GROUP_NORM, *SPARSE]),
    "KGDet plus": ("kgdet_plus_tiny_scratch", PLUS),
    "RepPoints": ("reppoints_tiny", GROUP_NORM),
    "RepPoints-Kp": ("reppoints_kp_tiny", GROUP_NORM),
    "RetinaNet": ("retinanet_tiny", ["MODEL.FPN.NORM", "GN", "MODEL.RETINANET.NORM", ""]),
    "FCOS": ("fcos_tiny", ["MODEL.FPN.NORM", "GN", "MODEL.FCOS.NORM", "GN"]),
    "R-CNN": ("match_rcnn_tiny", []),
    "Match R-CNN": ("match_rcnn_tiny_matching", DETECTOR),
}
GARMENT, REGION, EVERYWHERE = [10, 5, 60, 80], [50, 40, 90, 60], [-999, -999, 999, 999]
BATCHES = {
    "both": [([GARMENT], [REGION]), ([], [])],
    "regions alone": [([], [REGION]), ([], [REGION, REGION])],
    "everywhere": [([GARMENT], [EVERYWHERE]), ([], [EVERYWHERE])],
}


def inputs_of(batch):
    """Inputs of two images with all that any system reads; regions are None where there is no such field."""
    torch.manual_seed(0)
    inputs = []
    for number, (boxes, regions) in enumerate(batch):
        record = image_input(96, 96 + 32 * number, boxes)
        garments = record["instances"]
        garments.gt_styles = torch.ones(len(boxes), dtype=torch.long)
        garments.gt_masks = PolygonMasks([[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes])
        record["instances"] = garments if regions is None else with_regions(garments, regions)
        inputs.append(record | {"source": ("user", "shop")[number], "pair_id": 1})
    return inputs


def losses_of(name, inputs):
    """Build the system, and compute its losses: always with the same weights and the same draws."""
    config, opts = SYSTEMS[name]
    model = make_model(config, *opts)
    for record in inputs:
        if name in ("RepPoints", "RetinaNet", "FCOS"):
            record["instances"].remove("gt_keypoints")
    torch.manual_seed(0)
    with EventStorage():
        return model, model(inputs)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered in")
def test_trains_on(system, batch):
    model, losses = losses_of(system, inputs_of(BATCHES[batch]))
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if batch == "regions alone":
        assert all(loss == 0 for name, loss in losses.items() if "cls" not in name)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered in")
def test_only_regions_make_a_difference(system):
    """A field that says that none is one changes no bit of a loss; where all is one, classes lose less."""
    plain, none, everywhere = (
        losses_of(system, inputs_of(batch))[1]
        for batch in ([([GARMENT], None), ([], None)], [([GARMENT], []), ([], [])], BATCHES["everywhere"])
    )
    assert none.keys() == plain.keys()
    for name, loss in plain.items():
        assert torch.equal(none[name], loss)
        is_mean = system.endswith("R-CNN") and name == "loss_cls"  # over those proposals that are left
        if "cls" in name and not is_mean:
            assert everywhere[name] < loss


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered in")
def test_a_batch_with_nothing_to_learn_from_has_no_gradient():
    for system in SYSTEMS:
        model, losses = losses_of(system, inputs_of([([], [EVERYWHERE]), ([], [EVERYWHERE])]))
        total = sum(losses.values())
        assert total == 0, system
        total.backward()
        assert all(p.grad is None or not p.grad.any() for p in model.parameters()), system
