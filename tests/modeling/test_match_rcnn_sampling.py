"""Anchors and proposals that an R-CNN learns from: none of the background in regions to ignore."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

from kgdet_d2.config import load_config
from kgdet_d2.modeling import GTBoxMatchRCNN
from kgdet_d2.modeling.match_rcnn.meta_arch import matching_labels
from tests.helpers.images import image_input
from tests.helpers.regions import half_in, with_regions

CONFIG = "configs/sample/match_rcnn_tiny.yaml"
MATCHING = "configs/sample/match_rcnn_tiny_matching.yaml"
DETECTRON2 = ["MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
SIZES = [(20, 16), (10, 8), (5, 4)]
BOXES, CLASSES = torch.tensor([[5.0, 5, 60, 50], [50, 20, 110, 140]]), torch.tensor([3, 8])
REGIONS = [[[0.3, 0.3, 71, 61], [61, 41, 125, 151]], [[21.0, 21, 127.3, 159.3]]]  # on no edge of an anchor


@pytest.fixture(autouse=True)
def storage():
    with EventStorage(0):
        yield


def make_model(*opts, config=CONFIG):
    torch.manual_seed(0)
    return build_model(load_config(config, ["MODEL.DEVICE", "cpu", *opts]))


def annotated(*, regions):
    """Two images, one of them without garments; with REGIONS or without."""
    images = [
        Instances((160, 128), gt_boxes=Boxes(boxes), gt_classes=classes)
        for boxes, classes in ((BOXES, CLASSES), (BOXES[:0], CLASSES[:0]))
    ]
    if not regions:
        return images
    return [with_regions(images[0], REGIONS[0], order=[3, 0, 2, 1]), with_regions(images[1], REGIONS[1])]


def random_proposals(image):
    """500 boxes, many of them about a garment."""
    generator = torch.Generator().manual_seed(image)
    corner = torch.rand(400, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 5 + torch.rand(400, 2, generator=generator) * 60], dim=1)
    near = BOXES.repeat(50, 1) + torch.randn(100, 4, generator=generator) * 8
    return Instances(
        (160, 128), proposal_boxes=Boxes(torch.cat([boxes, near])), objectness_logits=torch.zeros(500)
    )


def test_without_regions_all_is_Detectron2_s():
    """Losses to the last bit, with the same draws."""
    found = []
    for opts in ([], DETECTRON2):
        model = make_model(*opts, "MODEL.MASK_ON", False)
        inputs = [image_input(96, 96, [[5, 5, 60, 90], [30, 10, 90, 40]]), image_input(96, 128)]
        torch.manual_seed(0)
        found.append((model(inputs), list(model.state_dict())))
        torch.manual_seed(0)
    (ours, our_names), (theirs, their_names) = found
    assert our_names == their_names
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], loss) for name, loss in theirs.items()
    )


@pytest.mark.parametrize("sample", [10**6, 40], ids=["all", "some"])
def test_anchors(sample):
    """Those that Detectron2 would take, or a sample of them, but for background in regions."""
    opts = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", sample, "MODEL.RPN.POSITIVE_FRACTION", 0.5]
    rpn = make_model(*opts).proposal_generator
    everything = make_model(*DETECTRON2, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10**6).proposal_generator
    anchors = rpn.anchor_generator([torch.zeros(1, 1, *size) for size in SIZES])
    expected, expected_boxes = everything.label_and_sample_anchors(anchors, annotated(regions=False))
    labels, boxes = rpn.label_and_sample_anchors(anchors, annotated(regions=True))
    kinds = set()
    for image, regions in enumerate(REGIONS):
        assert torch.equal(boxes[image], expected_boxes[image])
        places = Boxes.cat(anchors).tensor.tolist()
        for place, label, plain in zip(places, labels[image].tolist(), expected[image].tolist(), strict=True):
            inside = half_in(place, regions)
            kinds.add((inside, plain))
            allowed = -1 if inside and plain == 0 else plain
            assert label == allowed or (label == -1 and sample == 40)
        assert (labels[image] >= 0).sum() == 40 or sample != 40
    assert kinds == {(inside, label) for inside in (True, False) for label in (1, 0, -1)}


@pytest.mark.parametrize("sample", [10**6, 40], ids=["all", "some"])
def test_proposals(sample):
    opts = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", sample, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.5]
    heads = make_model(*opts).roi_heads
    proposals = [random_proposals(image) for image in range(2)]
    sampled = heads.label_and_sample_proposals(proposals, annotated(regions=True))
    for image, (garments, found) in enumerate(zip(annotated(regions=False), sampled, strict=True)):
        regions, kinds = REGIONS[image], set()
        expected = {}  # box -> class, of all that is learnt from
        given = torch.cat([proposals[image].proposal_boxes.tensor, garments.gt_boxes.tensor])
        iou = pairwise_iou(Boxes(given), garments.gt_boxes)
        for row, box in enumerate(given.tolist()):
            best = max(range(len(garments)), key=iou[row].tolist().__getitem__, default=None)
            positive = best is not None and iou[row, best].item() >= 0.5
            kinds.add((inside := half_in(box, regions), positive))
            if positive or not inside:
                expected[tuple(box)] = int(garments.gt_classes[best]) if positive else 13
        boxes = list(map(tuple, found.proposal_boxes.tensor.tolist()))
        assert {box: expected[box] for box in boxes} == dict(
            zip(boxes, found.gt_classes.tolist(), strict=True)
        )
        assert set(boxes) == expected.keys() if sample > 40 else len(found) == 40
        assert len(kinds) == (4 if len(garments) else 2)
        assert not found.has("gt_ignored") and found.has("gt_boxes") == bool(len(garments))


def pair():
    """A user's and a shop's image of one garment, and the same with a region of the same style."""
    records = []
    for source in ("user", "shop"):
        record = image_input(96, 96, [[5, 5, 60, 90]])
        record["instances"].gt_styles = torch.tensor([1])
        records.append(record | {"source": source, "pair_id": 7})
    mixed = [
        record | {"instances": with_regions(record["instances"], [[50, 40, 90, 60]], order=[1, 0])}
        for record in records
    ]
    return records, mixed


def test_regions_match_nothing():
    plain, mixed = pair()
    for found, expected in zip(matching_labels(mixed), matching_labels(plain), strict=True):
        assert torch.equal(found, expected)
    losses = [make_model(config=MATCHING)(records)["loss_match"] for records in (plain, mixed)]
    assert torch.equal(*losses)
    regions = with_regions(plain[1]["instances"][:0], [[50, 40, 90, 60]])
    assert make_model(config=MATCHING)([plain[0], plain[1] | {"instances": regions}])["loss_match"] == 0


def test_regions_are_not_embedded_as_garments():
    model = GTBoxMatchRCNN(make_model(config=MATCHING).eval())
    (expected, found) = ([output["instances"] for output in model(records)] for records in pair())
    for ours, plain in zip(found, expected, strict=True):
        assert torch.equal(ours.pred_embeddings, plain.pred_embeddings) and len(ours) == 1
