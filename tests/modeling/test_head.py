from collections import Counter

import pytest
import torch

from kgdet_d2.modeling.heads.aggregation import PointAggregation
from kgdet_d2.modeling.heads.keypoint_selection import select_keypoints
from kgdet_d2.modeling.heads.kgdet_head import KGDetHead
from kgdet_d2.modeling.heads.outputs import StageOutput


def make_head(**changes):
    torch.manual_seed(0)
    arguments = {
        "in_channels": 32,
        "num_classes": 3,
        "num_keypoints": 4,
        "num_stages": 3,
        "aggregation": "encoding",
        "columns": [9, 25],
        "channels": 32,
        "num_convs": 1,
        "norm": "GN",
        "prior_prob": 0.01,
        "points_gradient": 0.1,
        "moment_gradient": 0.01,
    }
    return KGDetHead(**(arguments | changes))


SELECTION = {"aggregation": "selection", "columns": [9], "num_keypoints": 12}


@pytest.mark.parametrize(("columns", "num_stages"), [([9], 2), ([9, 25, 49], 3), ([25], 1), ([9, 9], 2)])
def test_shapes_of_every_stage_and_level(columns, num_stages):
    head = make_head(columns=columns, num_stages=num_stages)
    sizes = [(4, 5), (2, 3), (1, 1)]
    stages = head([torch.randn(2, 32, *size) for size in sizes])
    assert len(stages) == num_stages
    for stage in stages:
        for level, size in enumerate(sizes):
            assert stage.logits[level].shape == (2, 3, *size)
            assert stage.keypoints[level].shape == (2, 8, *size)
            assert stage.points[level].shape == (2, 2 * sum(columns), *size)
            assert stage.boxes[level].shape == (2, 4, *size)
        assert stage.visibility is None


def test_selection_tells_visibility_and_takes_the_stage_s_own_landmarks():
    head = make_head(**SELECTION)
    sizes = [(4, 5), (1, 1)]
    stages = head([torch.randn(2, 32, *size) for size in sizes])
    assert len(stages) == 3
    for stage in stages:
        for level, size in enumerate(sizes):
            assert stage.visibility[level].shape == (2, 12, *size)
            assert stage.points[level].shape == (2, 18, *size)
            expected = select_keypoints(stage.keypoints[level], stage.visibility[level], 9)
            assert torch.equal(stage.points[level], expected)


def test_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="aggregation: expected 'encoding' or 'selection', got 'sum'"):
        make_head(aggregation="sum")


def test_scores_start_at_the_prior():
    (stage,) = make_head(num_stages=1, **SELECTION)([torch.zeros(1, 32, 2, 2)])
    for level in (*stage.logits, *stage.visibility):
        torch.testing.assert_close(level.sigmoid(), torch.full_like(level, 0.01))


@pytest.mark.parametrize("changes", [{}, SELECTION], ids=["encoding", "selection"])
def test_boxes_are_the_moments_of_the_points(changes):
    head = make_head(**changes)
    head.moment_scale.data.copy_(torch.tensor([0.3, -0.2]))
    for stage in head([torch.randn(1, 32, 3, 3)]):
        y, x = stage.points[0][0, 0::2], stage.points[0][0, 1::2]
        half_width, half_height = x.std(0) * 2.718281828**0.3, y.std(0) * 2.718281828**-0.2
        sides = [
            x.mean(0) - half_width,
            y.mean(0) - half_height,
            x.mean(0) + half_width,
            y.mean(0) + half_height,
        ]
        torch.testing.assert_close(stage.boxes[0][0], torch.stack(sides))


@pytest.mark.parametrize("changes", [{}, SELECTION], ids=["encoding", "selection"])
def test_the_cascade_adds_residuals_without_gradient_to_earlier_stages(changes):
    """The last stage's offsets teach stage 1 only through a tenth of the sampling positions' gradient."""
    head = make_head(points_gradient=0.0, **changes)
    stages = head([torch.randn(1, 32, 3, 3)])
    (stages[-1].keypoints[0].sum() + stages[-1].boxes[0].sum()).backward()
    first, last = head.stages[0], head.stages[-1]
    assert first.keypoint_offsets.weight.grad is None or not first.keypoint_offsets.weight.grad.any()
    assert last.keypoint_offsets.weight.grad.any()


@pytest.mark.parametrize("changes", [{}, SELECTION], ids=["encoding", "selection"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_share_of_the_gradient_that_reaches_the_points(share, changes):
    features = torch.randn(1, 32, 3, 3)

    def gradient(points_gradient):
        head = make_head(points_gradient=points_gradient, num_stages=2, **changes)
        head([features])[-1].logits[0].sum().backward()
        gradient = head.stages[0].keypoint_offsets.weight.grad
        assert gradient.any()
        return gradient

    torch.testing.assert_close(gradient(share), gradient(1.0) * share)


def test_moment_scale_learns_at_its_share():
    features = torch.randn(1, 32, 3, 3)

    def gradient(moment_gradient):
        head = make_head(moment_gradient=moment_gradient)
        head([features])[-1].boxes[0].square().sum().backward()
        return head.moment_scale.grad

    torch.testing.assert_close(gradient(0.01), gradient(1.0) * 0.01)


SIZES = [(4, 5), (2, 3), (1, 1)]
ALL = sum(height * width for height, width in SIZES)


def sparse_case(number, **changes):
    """A head with points far from their locations, features of two images, and each one's best locations."""
    head = make_head(sparse_cells=number, **changes)
    for parameter in head.stages.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.dim() > 1 else 1.0)
    features = [torch.randn(2, 32, *size) for size in SIZES]
    scores = torch.cat([level.amax(dim=1).flatten(1) for level in head(features)[0].logits], dim=1)
    best = [row.argsort(descending=True)[:number] for row in scores]
    images = torch.arange(2).repeat_interleave(len(best[0]))
    return head, features, (images, torch.cat(best))


def at(locations):
    """A selection of fixed locations (images, location_ids), whatever the logits are."""
    images, location_ids = locations

    def select(logits):
        start, grid_indices = 0, []
        for level in logits:
            height, width = level.shape[-2:]
            here = (location_ids >= start) & (location_ids < start + height * width)
            ids = location_ids[here] - start
            grid_indices.append((images[here], ids // width, ids % width))
            start += height * width
        select.logits = flat(logits)
        return grid_indices

    return select


def flat(logits):
    """(N, C, H, W) of each level -> (N, L, C)."""
    return torch.cat([level.flatten(2) for level in logits], dim=2).transpose(1, 2)


@pytest.mark.parametrize("changes", [{}, SELECTION, {"num_stages": 2}], ids=["encoding", "selection", "two"])
@pytest.mark.parametrize("number", [1, 6, ALL, ALL + 100])
@torch.no_grad()
def test_at_its_chosen_locations_a_sparse_head_predicts_what_a_dense_one_does(number, changes):
    head, features, locations = sparse_case(number, **changes)
    select = at(locations)
    dense, sparse = head(features)[-1], head.predict(features, select)
    torch.testing.assert_close(select.logits[locations], flat(dense.logits)[locations])
    assert select.logits.isfinite().all(dim=-1).sum() == len(locations[0]) == 2 * min(number, ALL)
    assert (select.logits == -torch.inf).sum() + select.logits.isfinite().sum() == select.logits.numel()
    expected = dense.gather(select(dense.logits))
    assert sorted(zip(sparse.image.tolist(), sparse.location_ids.tolist(), strict=True)) == sorted(
        zip(*(indices.tolist() for indices in locations), strict=True)
    )
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(sparse, name), value)


@torch.no_grad()
def test_what_is_gathered_is_what_stands_at_the_location():
    head, features, locations = sparse_case(6)
    stage = head(features)[-1]
    gathered = stage.gather(at(locations)(stage.logits))
    assert len(gathered.image) == 12
    for name in ("logits", "boxes", "keypoints"):
        expected = flat(getattr(stage, name))[gathered.image, gathered.location_ids]
        assert torch.equal(getattr(gathered, name), expected)


def test_a_stage_without_classes_has_nothing_to_gather():
    output = StageOutput(None, None, [torch.zeros(1, 18, 2, 2)], [torch.zeros(1, 4, 2, 2)])
    with pytest.raises(ValueError, match="expected a stage that classifies"):
        output.gather([(torch.zeros(0, dtype=torch.long),) * 3])


@torch.no_grad()
def test_nothing_but_stage_1_s_features_is_computed_at_locations_that_are_not_chosen():
    head, features, locations = sparse_case(6)
    computed = Counter()
    for name, module in head.stages.named_modules():
        if isinstance(module, PointAggregation) or type(module) is torch.nn.Conv2d:
            module.register_forward_hook(
                lambda module, inputs, output, name=name: computed.update({name: output[:, 0].numel()})
            )
    head.predict(features, at(locations))
    dense = {
        "0.cls_aggregation.conv": 2 * ALL,
        "0.keypoint_aggregation.conv": 2 * ALL,
        "0.cls_score": 2 * ALL,
    }
    sparse = ["0.keypoint_offsets", "0.encode_points", "1.keypoint_aggregation", "1.keypoint_offsets"]
    sparse += ["1.encode_points", "2.cls_aggregation", "2.cls_score"]
    sparse += ["2.keypoint_aggregation", "2.keypoint_offsets", "2.encode_points"]
    assert computed == dense | dict.fromkeys(sparse, 2 * 6)


@torch.no_grad()
def test_a_dense_head_regresses_its_last_stage_at_the_kept_locations_alone():
    head, features, locations = sparse_case(0)
    locations = (torch.tensor([0, 1, 1]), torch.tensor([3, 0, ALL - 1]))
    computed = Counter()
    for name, module in head.stages.named_modules():
        if type(module) is torch.nn.Conv2d and name.endswith("keypoint_offsets"):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: computed.update({name: output[:, 0].numel()})
            )
    head.predict(features, at(locations))
    assert computed == {"0.keypoint_offsets": 2 * ALL, "1.keypoint_offsets": 2 * ALL, "2.keypoint_offsets": 3}


@torch.no_grad()
def test_locations_inside_are_chosen_before_any_others():
    head, features, (images, location_ids) = sparse_case(4)
    inside = torch.ones(2, ALL, dtype=torch.bool)
    inside[images, location_ids] = False  # the best ones
    inside[1, 3:] = False  # too few are left
    select = at((images, location_ids))
    head.predict(features, select, inside)
    finite = select.logits.isfinite().all(dim=-1)
    assert finite.sum(dim=1).tolist() == [4, 4]
    assert not (finite & ~inside)[0].any() and finite[1][inside[1]].all()


@torch.no_grad()
def test_features_that_are_nan_choose_locations_without_an_error():
    head, features, locations = sparse_case(3)
    select = at(locations)
    head.predict([torch.full_like(level, torch.nan) for level in features], select)
    assert not select.logits.isfinite().any()


def test_normalised_stages_are_computed_at_each_location_by_itself():
    """In inference: chosen locations have what they have among all."""
    head = make_head(stage_norm="BN", init="kaiming").train()
    features = [torch.randn(2, 32, 5, 6)]
    head(features)  # gives the statistics something to hold
    head.eval()
    with torch.no_grad():
        (level,) = head(features)[-1].keypoints
        image, row, column = torch.tensor([0, 1, 1]), torch.tensor([0, 3, 4]), torch.tensor([5, 2, 0])
        predicted = head.predict(features, lambda _: [(image, row, column)])
    torch.testing.assert_close(predicted.keypoints, level[image, :, row, column], atol=1e-5, rtol=1e-4)


def test_kaiming_keeps_the_variance_of_features():
    torch.manual_seed(0)
    features = torch.randn(4, 32, 16, 16)
    spreads = {
        init: make_head(init=init, norm="").cls_tower(features).std() for init in ("normal", "kaiming")
    }
    assert 0.3 < spreads["kaiming"] < 3 and spreads["normal"] < 0.3


def test_predicting_layers_start_alike_with_either_initialisation():
    for init in ("normal", "kaiming"):
        for stage in make_head(init=init).stages:
            for layer in (stage.cls_score, stage.keypoint_offsets, stage.encode_points):
                assert layer.weight.std() < 0.02


def test_sparse_training_computes_positives_and_the_best_of_the_others():
    head = make_head(sparse_training=4).train()
    features = [torch.randn(2, 32, 5, 6), torch.randn(2, 32, 3, 3)]
    positive = torch.zeros(2, 39, dtype=torch.bool)
    positive[0, [3, 31]] = True
    dense, sparse = head(features), head(features, positive)
    first = torch.cat([level.amax(dim=1).flatten(1) for level in dense[0].logits], dim=1)
    for name in ("logits", "keypoints", "boxes"):
        for one, other in zip(getattr(dense[0], name), getattr(sparse[0], name), strict=True):
            assert torch.equal(one, other)
    for image, number in ((0, 2), (1, 0)):
        order = first[image].masked_fill(positive[image], torch.inf).argsort(descending=True)
        chosen = torch.zeros(39, dtype=torch.bool)
        chosen[order[: 2 + 4]] = True  # as many in each image
        assert chosen[positive[image]].all() and number == positive[image].sum()
        for stage, dense_stage in zip(sparse[1:], dense[1:], strict=True):
            flat = {}
            for which, output in (("sparse", stage), ("dense", dense_stage)):
                for name in ("logits", "keypoints", "boxes"):
                    levels = [level[image].flatten(1) for level in getattr(output, name)]
                    flat[which, name] = torch.cat(levels, dim=1)
            if stage is sparse[1]:  # the first of the later stages, which samples at the same points
                for name in ("logits", "keypoints", "boxes"):
                    torch.testing.assert_close(
                        flat["sparse", name][:, chosen], flat["dense", name][:, chosen], atol=1e-5, rtol=1e-4
                    )
            assert (flat["sparse", "logits"][:, ~chosen].sigmoid() < 1e-8).all()
            assert (flat["sparse", "boxes"][:, ~chosen] == 0).all()


def test_sparse_training_on_everything_is_dense_training():
    head = make_head(sparse_training=39).train()
    features = [torch.randn(2, 32, 5, 6), torch.randn(2, 32, 3, 3)]
    nothing = torch.zeros(2, 39, dtype=torch.bool)
    for one, other in zip(head(features), head(features, nothing), strict=True):
        for name in ("logits", "keypoints", "points", "boxes"):
            for level, other_level in zip(getattr(one, name), getattr(other, name), strict=True):
                torch.testing.assert_close(level, other_level, atol=1e-5, rtol=1e-4)
