"""Match R-CNN end to end: batches of every kind, what learns, matching labels, odds and embeddings."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks, pairwise_iou
from detectron2.utils.events import EventStorage

from kgdet_d2.config import load_config
from kgdet_d2.modeling import GTBoxMatchRCNN
from kgdet_d2.modeling.match_rcnn.meta_arch import matching_labels
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.synthetic import generate_photo

DETECTION = "configs/sample/match_rcnn_tiny.yaml"
MATCHING = "configs/sample/match_rcnn_tiny_matching.yaml"
FLD_NUMBERS = ["MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 8]
FLD_OPTS = ["MODEL.KGDET.SCHEMA", "fld", "MODEL.MASK_ON", False, *FLD_NUMBERS]
DETECTION_LOSSES = {f"loss_{name}" for name in ("rpn_cls", "rpn_loc", "cls", "box_reg", "mask", "keypoint")}


@pytest.fixture(autouse=True)
def storage():
    torch.manual_seed(0)
    with EventStorage(0):
        yield


def make_model(config, *opts):
    return build_model(load_config(config, ["MODEL.DEVICE", "cpu", *opts]))


def garments(boxes, schema=DEEPFASHION2, *, labelled=True, polygons=True, size=(96, 128)):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    instances = Instances(size, gt_boxes=Boxes(boxes))
    instances.gt_classes = torch.arange(len(boxes)) % schema.num_classes
    keypoints = torch.zeros(len(boxes), schema.num_keypoints, 3)
    for row, index in enumerate(instances.gt_classes.tolist()):
        place = torch.rand(schema.num_class_keypoints(index), 2)
        points = boxes[row, :2] + place * (boxes[row, 2:] - boxes[row, :2])
        keypoints[row, list(schema.slots[index])] = torch.nn.functional.pad(points, (0, 1), value=2.0)
    instances.gt_keypoints = Keypoints(keypoints * labelled)
    if len(boxes) and schema is DEEPFASHION2:  # Detectron2 gives photos without garments no gt_masks
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].tolist()
        instances.gt_masks = PolygonMasks([[corner] if polygons else [] for corner in corners])
    return instances


def record_of(instances, **attributes):
    height, width = instances.image_size
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": 2 * height, "width": 2 * width, "instances": instances, **attributes}


TWO = [[5, 5, 70, 90], [60, 20, 120, 80]]


@pytest.mark.parametrize(
    "batch",
    [
        [garments(TWO), garments([[0, 0, 127, 95]])],
        [garments([]), garments([])],
        [garments([]), garments(TWO)],
        [garments(TWO, labelled=False), garments(TWO, polygons=False)],
        [garments([[-50, -50, 500, 500]]), garments([[10, 10, 11, 11]])],
    ],
    ids=["two", "no garments", "half without", "no landmarks, no polygons", "too large, too small"],
)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered in")
def test_trains_and_detects(batch):
    model = make_model(DETECTION)
    inputs = [record_of(instances) for instances in batch]
    losses = model(inputs)
    assert set(losses) == DETECTION_LOSSES
    sum(losses.values()).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()] == []

    model.eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    with torch.no_grad():
        outputs = model(inputs)
    assert any(len(output["instances"]) for output in outputs)
    for output in outputs:
        check_detections(output["instances"], DEEPFASHION2)
        assert output["instances"].pred_masks.shape == (len(output["instances"]), 192, 256)


def check_detections(found, schema):
    assert found.image_size == (192, 256)
    assert found.pred_keypoints.shape == (len(found), schema.num_keypoints, 3)
    for row, index in enumerate(found.pred_classes.tolist()):
        of_class = torch.zeros(schema.num_keypoints, dtype=torch.bool)
        of_class[list(schema.slots[index])] = True
        x1, y1, x2, y2 = found.pred_boxes.tensor[row].tolist()
        x, y, score = found.pred_keypoints[row, of_class].T
        assert (x >= x1).all() and (x <= x2).all() and (y >= y1).all() and (y <= y2).all()
        assert (score > 0).all() and not found.pred_keypoints[row, ~of_class].any()


def test_fld_has_boxes_and_landmarks():
    model = make_model(DETECTION, *FLD_OPTS)
    inputs = [record_of(garments(TWO[:1], FLD)), record_of(garments([], FLD))]
    assert set(model(inputs)) == DETECTION_LOSSES - {"loss_mask"}
    model.eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    with torch.no_grad():
        for output in model(inputs):
            check_detections(output["instances"], FLD)


def test_every_part_learns():
    model = make_model(DETECTION)
    sum(model([record_of(garments(TWO)), record_of(garments(TWO[:1]))]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def labelled_pair(styles_user=(1, 0), styles_shop=(1, 2), pair_id=7):
    pair = []
    for source, styles in (("user", styles_user), ("shop", styles_shop)):
        instances = garments(TWO[: len(styles)])
        instances.gt_styles = torch.tensor(styles, dtype=torch.long)
        pair.append(record_of(instances, source=source, pair_id=pair_id, file_name=f"{source}.jpg"))
    return pair


def test_items_match_by_pair_and_style():
    records = labelled_pair((1, 0), (1, 0)) + labelled_pair((1, 2), (2,), pair_id=8) + labelled_pair((), ())
    items, from_shop = matching_labels(records)
    assert from_shop.tolist() == [False, False, True, True, False, False, True]
    matches = {(a, b) for a in range(7) for b in range(7) if a < b and items[a] == items[b] >= 0}
    assert matches == {(0, 2), (5, 6)}
    assert items[[1, 3]].tolist() == [-1, -1]


@pytest.mark.parametrize("lacking", ["source", "pair_id", "styles"])
def test_photos_without_labels_are_named(lacking):
    user, shop = labelled_pair()
    if lacking == "styles":
        del shop["instances"]._fields["gt_styles"]
    else:
        del shop[lacking]
    with pytest.raises(ValueError, match=f"shop.jpg: matching needs .*{lacking}"):
        make_model(MATCHING)([user, shop])


def test_odds_and_loss_are_those_of_plain_loops():
    head = make_model(MATCHING).roi_heads.matching_head
    users, shops = torch.randn(3, 64, requires_grad=True), torch.randn(4, 64)
    items, from_shop = torch.tensor([0, -1, 2, 0, 2, -1, 2]), torch.tensor([False] * 3 + [True] * 4)
    logits, labels = [], []
    for u, user in enumerate(users):
        for s, shop in enumerate(shops):
            logits.append(head.classifier((user - shop) ** 2))
            labels.append(int(items[u] == items[3 + s] and items[u] >= 0))
    logits = torch.stack(logits)
    odds = head.log_odds(users, shops)
    torch.testing.assert_close(odds.flatten(), logits[:, 1] - logits[:, 0], atol=1e-4, rtol=1e-4)

    head.forward = lambda features, boxes: torch.cat([users, shops])
    loss = head.losses({}, [], items, from_shop)["loss_match"]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, users)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-3)


def test_the_matching_network_learns_alone():
    model = make_model(MATCHING)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    losses = model(labelled_pair() + labelled_pair(pair_id=8))
    assert set(losses) == {"loss_match"} and losses["loss_match"] > 0
    losses["loss_match"].backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    matching = {name for name in before if name.startswith("roi_heads.matching_head.")}
    assert matching - moved <= {"roi_heads.matching_head.embedding.bias"}  # BatchNorm takes it off again
    assert moved <= matching


def test_all_losses_jointly():
    model = make_model(MATCHING, "MODEL.MATCHING.TRAIN_DETECTOR", True)
    losses = model(labelled_pair() + labelled_pair(pair_id=8))
    assert set(losses) == DETECTION_LOSSES | {"loss_match"}
    (gradient,) = torch.autograd.grad(losses["loss_match"], model.backbone.outputs["p3"].weight)
    assert gradient.any()


@pytest.mark.parametrize("styles", [((), ()), ((1,), ()), ((), (1,))], ids=["none", "user", "shop"])
def test_batches_without_a_pair(styles):
    model = make_model(MATCHING)
    loss = model(labelled_pair(*styles))["loss_match"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)


def test_detections_have_embeddings():
    model = make_model(MATCHING).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    inputs = labelled_pair()
    with torch.no_grad():
        found = [output["instances"] for output in model(inputs)]
        model.roi_heads.box_predictor.test_score_thresh = 1.0
        none = [output["instances"] for output in model(inputs)]
    assert [instances.pred_embeddings.shape for instances in found] == [(len(i), 64) for i in found]
    assert [instances.pred_embeddings.shape for instances in none] == [(0, 64)] * 2


def test_given_boxes_are_embedded():
    model = make_model(MATCHING).eval()
    inputs = labelled_pair()
    given = [output["instances"] for output in GTBoxMatchRCNN(model)(inputs)]
    for instances, record in zip(given, inputs, strict=True):
        truth = record["instances"]
        torch.testing.assert_close(instances.pred_boxes.tensor, 2 * truth.gt_boxes.tensor)
        assert instances.pred_classes.tolist() == truth.gt_classes.tolist()
        assert instances.scores.tolist() == [1.0] * len(truth)
    with torch.no_grad():
        features = model.backbone(model.preprocess_image(inputs).tensor)
        expected = model.roi_heads.matching_head(features, [r["instances"].gt_boxes for r in inputs])
    torch.testing.assert_close(torch.cat([i.pred_embeddings for i in given]), expected)


def drawn(index):
    """A synthetic photo as the mapper would give it."""
    drawing = generate_photo(index, size=160)
    height, width = drawing.image.shape[:2]
    items = [item for name, item in drawing.annotation.items() if name.startswith("item")]
    classes = [item["category_id"] - 1 for item in items]
    instances = Instances((height, width), gt_classes=torch.tensor(classes))
    instances.gt_boxes = Boxes(torch.tensor([item["bounding_box"] for item in items], dtype=torch.float32))
    local = [np.array(item["landmarks"], np.float32).reshape(-1, 3) for item in items]
    keypoints = map(DEEPFASHION2.scatter, local, classes)
    instances.gt_keypoints = Keypoints(np.stack(list(keypoints)))
    instances.gt_masks = PolygonMasks([item["segmentation"] for item in items])
    image = torch.as_tensor(drawing.image[..., ::-1].transpose(2, 0, 1).copy())
    return {"image": image, "height": height, "width": width, "instances": instances}


@pytest.mark.slow
def test_a_photo_is_learned_by_heart():
    model = make_model(DETECTION)
    record = drawn(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    totals = []
    for _ in range(150):
        losses = model([record])
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert np.mean(totals[-10:]) < 0.3 * totals[0]

    with torch.no_grad():
        found = model.eval()([record])[0]["instances"]
    truth = record["instances"]
    overlaps = pairwise_iou(found.pred_boxes, truth.gt_boxes)
    overlaps[found.pred_classes[:, None] != truth.gt_classes] = 0
    best = overlaps.argmax(dim=0)
    assert (overlaps.amax(dim=0) > 0.75).all()
    labelled = truth.gt_keypoints.tensor[..., 2] > 0
    error = (found.pred_keypoints[best, :, :2] - truth.gt_keypoints.tensor[..., :2]).norm(dim=2)
    assert error[labelled].mean() < 4  # pixels of 160
    masks = BitMasks.from_polygon_masks(truth.gt_masks, *truth.image_size).tensor
    shared = (found.pred_masks[best] & masks).sum() / (found.pred_masks[best] | masks).sum()
    assert shared > 0.8
