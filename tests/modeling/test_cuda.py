"""The systems on CUDA: a GPU where there is one, else its rules of which tensors may meet."""

from contextlib import nullcontext

import pytest
import torch
from detectron2.utils.events import EventStorage

from tests.helpers.images import image_input
from tests.helpers.regions import with_regions
from tests.helpers.simulated_cuda import simulated_cuda
from tests.helpers.systems import SELECTION, make_model

IMAGES = [(96, 64, [[5, 5, 60, 60]]), (64, 100, [[0, 0, 99, 60], [20, 10, 60, 40]]), (64, 64, [])]
FLIP = ["MODEL.KGDET.FLIP_FUSION.ENABLED", True, "MODEL.KGDET.FLIP_FUSION.IN_TRAINING", True]
SYSTEMS = {
    "kgdet": ("kgdet_tiny", []),
    "kgdet, selection": ("kgdet_tiny", SELECTION),
    "kgdet, sparse": ("kgdet_tiny", ["MODEL.KGDET.SPARSE_CELLS", 5]),
    "kgdet, flip fusion": ("kgdet_tiny", FLIP),
    "reppoints": ("reppoints_tiny", []),
    "reppoints_kp": ("reppoints_kp_tiny", []),
}


@pytest.fixture
def cuda():
    with nullcontext() if torch.cuda.is_available() else simulated_cuda():
        yield


def make_scoring_model(config, opts):
    """Build a model that detects at any score and learns nothing."""
    model = make_model(config, *opts)
    model.postprocessor.score_threshold = 0.0
    return model.requires_grad_(False)


def make_inputs():
    """Make the inputs, one of them with a region to ignore."""
    torch.manual_seed(0)
    inputs = [image_input(*image) for image in IMAGES]
    inputs[1]["instances"] = with_regions(inputs[1]["instances"], [[40, 20, 100, 64]])
    return inputs


def detect(model):
    with torch.no_grad():
        return [output["instances"] for output in model.eval()(make_inputs())]


def losses(model):
    with EventStorage():
        return model.train()(make_inputs())


@pytest.mark.parametrize(("config", "opts"), SYSTEMS.values(), ids=SYSTEMS)
def test_as_on_the_CPU(config, opts, cuda):
    """With the deformable kernels in the place of what reads the map by hand."""
    model, on_cuda = make_scoring_model(config, opts), make_scoring_model(config, opts).to("cuda")
    for expected, found in zip(detect(model), detect(on_cuda), strict=True):
        assert len(found) > 0
        for name, values in found.get_fields().items():
            values = getattr(values, "tensor", values)
            assert values.device.type == "cuda"
            theirs = getattr(expected.get(name), "tensor", expected.get(name))
            # Sums over the detections, of which some have all but the same scores and may change places.
            sums = [tensor.double().sum(dim=0) for tensor in (values.cpu(), theirs)]
            torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-2)
    expected, found = losses(model), losses(on_cuda)
    assert {loss.device.type for loss in found.values()} == {"cuda"}
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-3
    )


@pytest.mark.parametrize(
    "system", ["kgdet, selection", "kgdet, sparse", "kgdet, flip fusion", "reppoints_kp"]
)
def test_half_precision(system, cuda):
    """Losses of the first stage alone: what later ones learn from depends on thresholds in RepPoints."""
    config, opts = SYSTEMS[system]
    model, on_cuda = make_scoring_model(config, opts), make_scoring_model(config, opts).to("cuda")
    expected = losses(model)
    with torch.autocast("cuda", torch.float16):
        found = losses(on_cuda)
        assert all(len(instances) > 0 for instances in detect(on_cuda))
    assert found.keys() == expected.keys() and all(loss.isfinite() for loss in found.values())
    for name in [name for name in expected if name.endswith("1")]:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=0.02), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="of the simulation")
def test_what_the_simulation_refuses():
    with simulated_cuda():
        here, there = torch.ones(2, 3), torch.ones(3, 2, device="cuda")
        with pytest.raises(RuntimeError, match=r"aten\.mm.*expected all tensors on the same device"):
            here @ there
        with pytest.raises(RuntimeError, match="on the same device"):
            here[there[0].bool().nonzero()[:, 0]]
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            there.numpy()
        assert (here.to("cuda") @ there).cpu().tolist() == [[3, 3], [3, 3]]
        assert there[torch.tensor([1])].device.type == "cuda" and (2.0 * there).device.type == "cuda"
