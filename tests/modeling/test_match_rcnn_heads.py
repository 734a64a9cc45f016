"""Keypoint and mask head of Match R-CNN against Detectron2's, with the keypoints of many classes."""

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage

from kgdet_d2.modeling.match_rcnn import GarmentKeypointHead, GarmentMaskHead
from kgdet_d2.schema import DEEPFASHION2, FLD

SHAPE = ShapeSpec(channels=4, height=14, width=14)


@pytest.fixture(autouse=True)
def storage():
    torch.manual_seed(0)
    with EventStorage(0):
        yield


def random_boxes(count):
    corner = torch.rand(count, 2) * 100
    return torch.cat([corner, corner + 20 + torch.rand(count, 2) * 150], dim=1)


def points_in(boxes, keypoints):
    """(n, landmarks, 2), anywhere in the boxes."""
    return boxes[:, None, :2] + torch.rand(len(boxes), keypoints, 2) * (boxes[:, 2:] - boxes[:, :2])[:, None]


def proposals(classes, schema, visible=0.5):
    """Instances with landmarks of their own classes, some labelled, some outside of the proposal."""
    boxes = random_boxes(len(classes))
    keypoints = torch.zeros(len(classes), schema.num_keypoints, 3)
    for row, index in enumerate(classes):
        slots = list(schema.slots[index])
        keypoints[row, slots, :2] = points_in(boxes[row : row + 1], len(slots))[0] * 1.1
        keypoints[row, slots, 2] = (torch.rand(len(slots)) < visible) * torch.randint(
            1, 3, (len(slots),)
        ).float()
    fields = {"proposal_boxes": Boxes(boxes), "gt_classes": torch.tensor(classes, dtype=torch.long)}
    return Instances((300, 300), **fields, gt_keypoints=Keypoints(keypoints))


def both_heads(schema, **arguments):
    """Detectron2's head, and ours with the same weights."""
    arguments = {"num_keypoints": schema.num_keypoints, "conv_dims": [6, 6]} | arguments
    theirs = KRCNNConvDeconvUpsampleHead(SHAPE, **arguments)
    ours = GarmentKeypointHead(SHAPE, slots=schema.slots, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("schema", [DEEPFASHION2, FLD], ids=lambda schema: schema.name)
@pytest.mark.parametrize("normalizer", ["visible", 40.0])
@pytest.mark.parametrize("visible", [0.0, 0.5])
def test_loss_and_gradients_are_detectron2_s(schema, normalizer, visible):
    ours, theirs = both_heads(schema, loss_normalizer=normalizer, loss_weight=0.7)
    instances = [proposals(classes, schema, visible) for classes in ([0, 2, 1], [], [2])]
    del instances[1]._fields["gt_keypoints"]  # as Detectron2 leaves photos without garments
    features = torch.randn(4, *SHAPE[:1], 14, 14)
    losses = [head(features, instances)["loss_keypoint"] for head in (ours, theirs)]
    torch.testing.assert_close(*losses)
    assert (losses[0] > 0) == bool(visible)
    for loss in losses:
        loss.backward()
    for (name, parameter), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, reference.grad, msg=name)


def test_no_proposals_at_all():
    head, _ = both_heads(DEEPFASHION2)
    loss = head(torch.zeros(0, 4, 14, 14), [proposals([], DEEPFASHION2)])["loss_keypoint"]
    loss.backward()
    assert loss == 0 and all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("schema", [DEEPFASHION2, FLD], ids=lambda schema: schema.name)
def test_own_landmarks_are_detectron2_s_and_others_zero(schema):
    ours, theirs = (head.eval() for head in both_heads(schema))
    classes = [2, 0, 2, schema.num_classes - 1, 1]
    features = torch.randn(5, 4, 14, 14)

    def detections():
        torch.manual_seed(1)
        split = [classes[:2], [], classes[2:]]
        labels = [torch.tensor(part, dtype=torch.long) for part in split]
        boxes = [Boxes(random_boxes(len(part))) for part in split]
        pairs = zip(boxes, labels, strict=True)
        return [Instances((300, 300), pred_boxes=box, pred_classes=label) for box, label in pairs]

    with torch.no_grad():
        found, expected = (
            torch.cat([instances.pred_keypoints for instances in head(features, detections())])
            for head in (ours, theirs)
        )
    assert found.shape == (5, schema.num_keypoints, 3)
    for row, index in enumerate(classes):
        of_class = torch.zeros(schema.num_keypoints, dtype=torch.bool)
        of_class[list(schema.slots[index])] = True
        torch.testing.assert_close(found[row, of_class], expected[row, of_class])
        assert not found[row, ~of_class].any()


@pytest.fixture
def bare_head():
    """A head without layers: what it is given are its maps, 28 x 28."""
    head = GarmentKeypointHead(SHAPE, slots=DEEPFASHION2.slots, num_keypoints=294, conv_dims=[])
    del head.score_lowres
    return head.eval()


def test_drawn_landmarks_are_found_without_a_shift(bare_head):
    boxes = random_boxes(40)
    classes = torch.arange(40) % 13
    points = points_in(boxes, 294)
    # Map cell i covers 1/28 of the box and has its centre at (i + 0.5) / 28.
    centres = (torch.arange(28) + 0.5) / 28
    place = (points - boxes[:, None, :2]) / (boxes[:, 2:] - boxes[:, :2])[:, None]
    place = place.clamp(2 / 28, 26 / 28)
    points = boxes[:, None, :2] + place * (boxes[:, 2:] - boxes[:, :2])[:, None]
    across, down = (-((centres - place[..., axis, None]) ** 2) for axis in (0, 1))
    maps = 28**2 * (down[..., :, None] + across[..., None, :]) / 4
    instances = Instances((400, 400), pred_boxes=Boxes(boxes), pred_classes=classes)
    with torch.no_grad():
        bare_head(maps, [instances])
    errors = torch.cat(
        [
            instances.pred_keypoints[row, list(DEEPFASHION2.slots[index]), :2]
            - points[row, list(DEEPFASHION2.slots[index])]
            for row, index in enumerate(classes.tolist())
        ]
    )
    assert (errors.mean(dim=0).abs() < 0.1).all()  # half a pixel would be 0.5
    assert (errors.abs() < 2.5).all()


def test_what_training_aims_at_is_what_inference_finds(bare_head):
    """The cell that a landmark is taught to, decoded, contains the landmark."""
    truth = proposals([7, 3], DEEPFASHION2, visible=1.0)
    boxes = truth.proposal_boxes.tensor
    cells, inside = truth.gt_keypoints.to_heatmap(boxes, 56)
    maps = torch.nn.functional.one_hot(cells, 56 * 56).float().view(2, 294, 56, 56)
    bare_head.up_scale = 1.0
    instances = Instances((400, 400), pred_boxes=Boxes(boxes), pred_classes=truth.gt_classes)
    with torch.no_grad():
        bare_head(maps, [instances])
    error = (instances.pred_keypoints[..., :2] - truth.gt_keypoints.tensor[..., :2]).abs()
    cell = (boxes[:, 2:] - boxes[:, :2])[:, None] / 56
    assert (error <= cell / 2 + 1)[inside.bool()].all() and inside.sum() > 20


def outlined(polygons_per_garment):
    count = len(polygons_per_garment)
    fields = {"proposal_boxes": Boxes(torch.tensor([[10.0, 10, 60, 80]] * count).view(-1, 4))}
    fields["gt_classes"] = torch.arange(count)
    return Instances((100, 100), **fields, gt_masks=PolygonMasks(polygons_per_garment))


def test_garments_without_polygons_teach_no_mask():
    head = GarmentMaskHead(SHAPE, num_classes=13, conv_dims=[6, 6])
    theirs = MaskRCNNConvUpsampleHead(SHAPE, num_classes=13, conv_dims=[6, 6])
    theirs.load_state_dict(head.state_dict())
    square, triangle = [20.0, 20, 50, 20, 50, 60, 20, 60], [12.0, 70, 40, 70, 30, 15]
    features = torch.randn(4, 4, 14, 14)
    without_garments = outlined([])
    del without_garments._fields["gt_masks"]
    batch = [outlined([[square], []]), without_garments, outlined([[square, triangle]]), outlined([[]])]
    only = [outlined([[square]]), outlined([[square, triangle]])]
    torch.testing.assert_close(
        head(features, copy.deepcopy(batch))["loss_mask"], theirs(features[[0, 2]], only)["loss_mask"]
    )
    loss = head(features[:2], [outlined([[], []])])["loss_mask"]
    loss.backward()
    assert loss == 0 and all(parameter.grad is not None for parameter in head.parameters())
