import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances, Keypoints
from fvcore.transforms.transform import HFlipTransform

from kgdet_d2.config import load_config
from kgdet_d2.geometry.points import boxes_to_pixels, make_locations, offsets_to_points
from kgdet_d2.modeling.flip_fusion import (
    FlipFusion,
    fuse_flipped,
    keypoint_flip_map,
    mirror_features,
    mirror_images,
)
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.schema import DEEPFASHION2, FLD

KEY = "MODEL.KGDET.FLIP_FUSION"
CPU = torch.device("cpu")


def make_model(*opts):
    torch.manual_seed(0)
    return build_model(load_config("configs/sample/kgdet_tiny.yaml", ["MODEL.DEVICE", "cpu", *opts]))


def fused_model(mode, *opts, training=False):
    return make_model(f"{KEY}.ENABLED", True, f"{KEY}.IN_TRAINING", training, f"{KEY}.MODE", mode, *opts)


def photo(height, width):
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[5.0, 5.0, width - 9.0, height - 4.0]]))
    instances.gt_classes = torch.tensor([2])
    instances.gt_keypoints = Keypoints(torch.tensor([30.0, 40.0, 2.0]).expand(1, 294, 3))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}


def in_pixels(stage, level, stride):
    """One level of image 0: logits, landmarks (H, W, K, 2) and boxes (H, W, 4), by columns of cells."""
    height, width = stage.logits[level].shape[-2:]
    cells, strides = make_locations([(height, width)], [stride], CPU)
    keypoints, boxes = (field[level][0].flatten(1).T for field in (stage.keypoints, stage.boxes))
    return {
        "logits": stage.logits[level][0].permute(1, 2, 0),
        "keypoints": offsets_to_points(keypoints, cells, strides).view(height, width, -1, 2),
        "boxes": boxes_to_pixels(boxes, cells, strides).view(height, width, 4),
    }


def mirrored_in_pixels(field, values, width):
    """What Detectron2's own mirror of a photo ``width`` pixels wide makes of landmarks and boxes."""
    flip, shape = HFlipTransform(width), values.shape
    if field == "keypoints":
        swapped = values[..., DEEPFASHION2.flip_map.copy(), :].reshape(-1, 2).numpy()
        return torch.from_numpy(flip.apply_coords(swapped.copy())).view(shape)
    if field == "boxes":
        return torch.from_numpy(flip.apply_box(values.reshape(-1, 4).numpy())).view(shape).float()
    return values


def check_mirror_images(stages, others, strides, width, first):
    """From column ``first`` on, mirrored ``stages`` are ``others``; ``width(stride, columns)`` in pixels."""
    for stage, other in zip(stages, others, strict=True):
        for level, stride in enumerate(strides):
            ours, theirs = in_pixels(stage, level, stride), in_pixels(other, level, stride)
            columns = torch.arange(first, stage.logits[level].shape[-1])
            mirror = width(stride, stage.logits[level].shape[-1])
            for field, values in ours.items():
                expected = mirrored_in_pixels(field, theirs[field][:, mirror // stride - columns], mirror)
                torch.testing.assert_close(values[:, columns], expected, rtol=0, atol=1e-4)


def spread(model):
    """Random weights whose landmarks and points lie some cells off."""
    for name, parameter in model.head.named_parameters():
        if name.startswith("stages"):
            torch.nn.init.normal_(parameter, std=0.1 if parameter.dim() > 1 else 1.0)
    return model.eval()


@torch.no_grad()
def dense(model, inputs):
    images = model.preprocess_image(inputs)
    features = model.extract_features(images.tensor)
    stages = model.head(features)
    return stages, model.fuse_flipped(images, features, stages)


@pytest.mark.parametrize("levels", [["p4"], ["p5"], ["p5", "p6", "p7"]], ids="-".join)
def test_a_photo_and_its_mirror_give_mirrored_outputs(levels):
    """But for column 0, which has no cell at the photo's other edge."""
    model = spread(fused_model("image", "MODEL.FPN.OUT_FEATURES", str(levels)))
    photos = [photo(64, 256)]
    mirrors = [photos[0] | {"image": photos[0]["image"].flip(-1)}]
    (plain, fused), (_, others) = dense(model, photos), dense(model, mirrors)

    check_mirror_images(fused, others, model.strides, lambda stride, columns: 256, first=1)
    for own, both in zip(plain, fused, strict=True):
        for before, after in zip(own.keypoints, both.keypoints, strict=True):
            assert torch.equal(before[..., 0], after[..., 0])
            assert not torch.allclose(before[..., 1:], after[..., 1:], atol=0.1)


def test_a_map_and_its_mirror_give_mirrored_outputs():
    model = spread(fused_model("feature"))
    features = [torch.randn(1, 64, 4, 6), torch.randn(1, 64, 2, 3)]
    mirrored, axes = mirror_features(features)
    flip_map = keypoint_flip_map(DEEPFASHION2, "corrected")
    with torch.no_grad():
        stages, others = model.head(features), model.head(mirrored)
        fused = fuse_flipped(stages, others, axes, flip_map)
        fused_others = fuse_flipped(others, stages, axes, flip_map)

    def width(stride, columns):
        return (columns - 1) * stride

    check_mirror_images(fused, fused_others, [16, 32], width, first=0)
    with pytest.raises(AssertionError):
        check_mirror_images(stages, others, [16, 32], width, first=0)


def random_stage(visibility):
    def level(channels):
        return [torch.randn(2, channels, 3, 6), torch.randn(2, channels, 2, 3)]

    return StageOutput(level(3), level(16), level(18), level(4), level(8) if visibility else None)


@pytest.mark.parametrize("visibility", [True, False])
def test_what_is_its_own_mirror_fuses_to_itself(visibility):
    """Two photos of 4 and 6 cells, mirrored cell by cell and landmark by landmark; some have no partner."""
    stage, flip = random_stage(visibility), FLD.flip_map
    axes = [torch.tensor([4, 6]), torch.tensor([2, 3])]
    mirror = random_stage(visibility)
    for level, axis in enumerate(axes):
        for image, width in enumerate(axis.tolist()):
            for column in range(stage.logits[level].shape[-1]):
                if 0 <= width - column < stage.logits[level].shape[-1]:
                    at, to = (image, slice(None), slice(None), column), (image, ..., width - column)
                    mirror.logits[level][to] = stage.logits[level][at]
                    for landmark in range(8):
                        y, x = stage.keypoints[level][at][2 * flip[landmark] :][:2]
                        mirror.keypoints[level][to][2 * landmark] = y
                        mirror.keypoints[level][to][2 * landmark + 1] = -x
                        if visibility:
                            mirror.visibility[level][to][landmark] = stage.visibility[level][at][
                                flip[landmark]
                            ]
                    x1, y1, x2, y2 = stage.boxes[level][at]
                    mirror.boxes[level][to] = torch.stack([-x2, y1, -x1, y2])
    (fused,) = fuse_flipped([stage], [mirror], axes, torch.tensor(flip))
    for field in ("logits", "keypoints", "boxes", "visibility"):
        torch.testing.assert_close(getattr(fused, field), getattr(stage, field))
    assert fused.points is stage.points


def test_both_passes_learn_half_and_cells_without_a_partner_learn_alone():
    own, other = (torch.zeros(1, 1, 1, 3, requires_grad=True) for _ in range(2))

    def stage(logits):
        keypoints = torch.zeros(1, 16, 1, 3)
        return StageOutput([logits], [keypoints], [keypoints], [torch.zeros(1, 4, 1, 3)])

    (fused,) = fuse_flipped([stage(own)], [stage(other)], [torch.tensor([3])], torch.tensor(FLD.flip_map))
    fused.logits[0].sum().backward()
    assert own.grad.flatten().tolist() == [1, 0.5, 0.5]
    assert other.grad.flatten().tolist() == [0, 0.5, 0.5]


class MarkFinder:
    """A network that cannot err: every cell of every level says exactly where the photo's one mark stands."""

    strides = [32, 64, 128]

    def extract(self, images):
        height, width = images.shape[-2:]
        columns = images.amax(dim=(1, 2)).argmax(dim=1) + 0.5  # centre of the marked pixel
        return [columns.view(-1, 1, 1, 1).repeat(1, 1, -(-height // s), -(-width // s)) for s in self.strides]

    def head(self, features):
        x = [mark / s - torch.arange(mark.shape[-1]) for mark, s in zip(features, self.strides, strict=True)]
        keypoints = [torch.cat([level * 0, level] * 8, dim=1) for level in x]
        boxes = [torch.cat([level - 1, level * 0, level + 1, level * 0 + 1], dim=1) for level in x]
        return [StageOutput(x, keypoints, x, boxes)]


@pytest.mark.parametrize("widths", [[160], [384, 70], [1, 100, 300]], ids=str)
def test_an_exact_network_is_left_alone(widths):
    """Whatever the widths: boxes and landmarks of both passes meet where the mark is."""
    photos = [torch.zeros(3, 40, width) for width in widths]
    for image in photos:
        image[:, :, image.shape[-1] // 3] = 1
    images, network = ImageList.from_tensors(photos, 32), MarkFinder()
    features = network.extract(images.tensor)
    stages = network.head(features)
    fusion = FlipFusion(on_images=True, in_training=True, flip_map=torch.tensor(FLD.flip_map))
    (fused,) = fusion(
        images, features, stages, strides=network.strides, extract=network.extract, head=network.head
    )
    torch.testing.assert_close(fused.keypoints, stages[0].keypoints)
    torch.testing.assert_close(fused.boxes, stages[0].boxes)


@pytest.mark.parametrize("unit", [32, 128])
def test_each_photo_is_mirrored_within_its_own_width(unit):
    photos = [torch.randn(3, 40, 100), torch.randn(3, 64, 70), torch.randn(3, 10, 32)]
    images = ImageList.from_tensors(photos, 32)
    mirrored, widths = mirror_images(images, unit)
    assert widths.tolist() == {32: [128, 96, 32], 128: [128, 128, 128]}[unit]
    assert mirrored.shape == (3, 3, 64, 128)
    for image, (given, width) in enumerate(zip(photos, widths.tolist(), strict=True)):
        expected = torch.zeros(3, 64, 128)
        for column in range(given.shape[-1]):
            expected[:, : given.shape[1], width - 1 - column] = given[:, :, column]
        assert torch.equal(mirrored[image], expected)


@pytest.mark.parametrize("levels", [["p4"], ["p4", "p5", "p6", "p7"]], ids="-".join)
@pytest.mark.parametrize("mode", ["image", "feature"])
def test_trains_and_detects(mode, levels):
    model = fused_model(mode, "MODEL.FPN.OUT_FEATURES", str(levels), training=True)
    inputs = [photo(96, 64), photo(64, 100)]
    total = sum(model(inputs).values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    model.eval()
    for threshold in (0.0, 1.0):
        model.postprocessor.score_threshold = threshold
        with torch.no_grad():
            outputs = model(inputs)
        for output, given in zip(outputs, inputs, strict=True):
            found = output["instances"]
            assert found.image_size == (given["height"], given["width"])
            assert found.pred_keypoints.shape == (len(found), 294, 3)
            assert bool(len(found)) == (threshold == 0)


@pytest.mark.parametrize("mode", ["image", "feature"])
def test_fuses_in_training_only_where_asked(mode):
    inputs = [photo(64, 64)]
    plain, at_inference = make_model()(inputs), fused_model(mode)(inputs)
    in_training = fused_model(mode, training=True)(inputs)
    for name, loss in plain.items():
        assert at_inference[name] == loss
    assert any(in_training[name] != loss for name, loss in plain.items())


@pytest.mark.parametrize("mode", ["image", "feature"])
def test_a_checkpoint_does_not_know(mode):
    assert set(fused_model(mode).state_dict()) == set(make_model().state_dict())


def test_permutations():
    corrected, released = (keypoint_flip_map(DEEPFASHION2, name) for name in ("corrected", "released"))
    np.testing.assert_array_equal(corrected, DEEPFASHION2.flip_map)
    for flip in (corrected, released):
        assert torch.equal(flip[flip], torch.arange(294))
    names = DEEPFASHION2.slot_names
    differing = [names[i].split("/") for i in (corrected != released).nonzero().flatten()]
    assert {class_name for class_name, _ in differing} == {"short sleeve outwear"}
    keypoints = {landmark for _, landmark in differing}
    assert keypoints == {"neck_left", "neck_right", "opening_top_left", "opening_top_right"}
    assert keypoint_flip_map(FLD, "corrected").tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


def test_other_datasets_have_no_released_permutation():
    with pytest.raises(ValueError, match="PERMUTATION: fld has no permutation 'released'"):
        keypoint_flip_map(FLD, "released")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ([f"{KEY}.MODE", "pixels"], "MODE: expected 'image' or 'feature', got 'pixels'"),
        ([f"{KEY}.PERMUTATION", "mirror"], "PERMUTATION: expected 'corrected' or 'released', got 'mirror'"),
        ([f"{KEY}.IN_TRAINING", "True"], "IN_TRAINING: expected False where ENABLED is False, got True"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_contradictions_are_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        load_config("configs/kgdet_R50.yaml", opts)
