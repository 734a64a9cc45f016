import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, Keypoints

from kgdet_d2.config import load_config
from kgdet_d2.modeling.meta_arch import KGDet

CONFIG = "configs/sample/kgdet_tiny.yaml"
LEVELS = [["p4"], ["p5"], ["p5", "p6", "p7"], ["p4", "p5", "p6", "p7"]]

# Photos as height, width and boxes.
BATCHES = {
    "two": [(96, 64, [[5, 5, 60, 90]]), (64, 100, [[0, 0, 99, 60], [20, 10, 60, 40]])],
    "no garments": [(64, 64, []), (64, 64, [])],
    "half without": [(64, 96, []), (64, 64, [[1, 1, 60, 60]])],
    "one cell": [(32, 32, [[0, 0, 30, 30]]), (32, 32, [])],
    "larger than the photo": [(64, 64, [[-500, -500, 900, 900]])],
    "thirty": [(64, 64, [[i, i, i + 30, i + 30] for i in range(30)])],
}


def make_model(*opts):
    torch.manual_seed(0)
    norms = ["MODEL.FPN.NORM", "GN", "MODEL.KGDET.NORM", "GN"]  # BatchNorm cannot train on one cell
    return build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu", *norms, *opts]))


def photo(height, width, boxes=(), labelled=20):
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    keypoints = torch.zeros(len(boxes), 294, 3)
    keypoints[:, :labelled] = torch.tensor([40.0, 50.0, 2.0])
    instances.gt_keypoints = Keypoints(keypoints)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": 2 * height, "width": 3 * width, "instances": instances}


@pytest.mark.parametrize("levels", LEVELS, ids="-".join)
@pytest.mark.parametrize(
    "batch",
    BATCHES.values(),
    ids=BATCHES,
)
def test_trains_and_detects(levels, batch):
    model = make_model("MODEL.FPN.OUT_FEATURES", str(levels))
    inputs = [photo(*arguments) for arguments in batch]
    losses = model(inputs)
    assert set(losses) == {f"loss_{name}_{t}" for name in ("cls", "box", "keypoint") for t in (1, 2, 3)}
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    model.eval()
    model.postprocessor.score_threshold = 0.0
    with torch.no_grad():
        outputs = model(inputs)
    for output, given in zip(outputs, inputs, strict=True):
        found = output["instances"]
        assert found.image_size == (given["height"], given["width"])
        assert found.pred_keypoints.shape == (len(found), 294, 3)
        assert (found.pred_keypoints[..., 0] <= given["width"]).all()


def test_garments_without_landmarks():
    losses = make_model()([photo(64, 64, [[5, 5, 60, 60]], labelled=0)])
    assert losses["loss_keypoint_3"] == 0 and losses["loss_box_3"] > 0


def test_every_parameter_learns():
    model = make_model()
    sum(model([photo(96, 96, [[5, 5, 60, 90]])]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("depth", "full", "trainable"),
    [
        (50, True, 59_134_423),
        (101, True, 78_126_551),
        (50, False, 59_134_423 - 6_884_352),
    ],
)
def test_trainable_parameters_as_published(depth, full, trainable):
    """The paper's Table 1 counts 59.13 M and 78.13 M, with the parts of the neck that reach no output."""
    cfg = load_config(
        "configs/kgdet_R50.yaml",
        ["MODEL.DEVICE", "meta", "MODEL.FPN.FULL", full, "MODEL.RESNETS.DEPTH", depth],
    )
    with torch.device("meta"):
        model = KGDet(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
