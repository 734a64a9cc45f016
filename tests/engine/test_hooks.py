"""Losses that are not finite stop the training of every system, before any weight has changed."""

from functools import partial

import pytest
import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from kgdet_d2.engine.hooks import check_losses
from tests.helpers.box_detectors import box_inputs
from tests.helpers.images import image_input
from tests.helpers.processes import run_as_processes
from tests.helpers.systems import make_model

BROKEN = {  # the layer that says nan, and the loss that tells
    "kgdet": ("head.stages.1.cls_score.bias", "loss_cls_2"),
    "reppoints": ("head.stages.0.points.output.bias", "loss_box_1"),
    "retinanet": ("head.cls_score.bias", "loss_cls"),
    "fcos": ("head.ctrness.bias", "loss_fcos_ctr"),
    "match_rcnn": ("roi_heads.box_predictor.cls_score.bias", "loss_cls"),
}


@pytest.mark.parametrize("system", BROKEN)
def test_photos_are_named(system):
    layer, loss = BROKEN[system]
    model = make_model(f"{system}_tiny", "MODEL.MASK_ON", False)
    model.register_forward_hook(check_losses)
    model.get_parameter(layer).data[-1] = torch.nan
    inputs = [image_input(96, 96, [[5, 5, 60, 60]]) | {"file_name": name} for name in ("a.jpg", "b.jpg")]
    before = {name: parameter.clone() for name, parameter in model.named_parameters() if name != layer}
    trainer = SimpleTrainer(model, [inputs], torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(FloatingPointError, match=rf"'{loss}': nan.*, for the photos \['a.jpg', 'b.jpg'\]"):
        trainer.train(0, 1)
    assert all(model.get_parameter(name).equal(parameter) for name, parameter in before.items())


def test_results_are_no_losses():
    model = make_model("retinanet_tiny").eval()
    model.register_forward_hook(check_losses)
    model.head.cls_score.bias.data[:] = torch.nan
    with torch.no_grad():
        model(box_inputs([(64, 64, [])]))


def test_all_processes_stop_at_the_loss_of_one(monkeypatch):
    values = [1.0, torch.nan, 2.0, torch.inf]

    def step(number):
        losses = {"loss_cls": torch.tensor(1.0), "loss_box": torch.tensor(values[number])}
        try:
            check_losses(nn.Linear(1, 1), ([{"file_name": f"{number}.jpg"}],), losses)
        except FloatingPointError as error:
            return str(error)

    messages = run_as_processes(monkeypatch, [partial(step, number) for number in range(4)])
    expected = "losses that are not finite: {'loss_box': nan}, for the photos ['1.jpg']; "
    expected += "losses that are not finite: {'loss_box': inf}, for the photos ['3.jpg']"
    assert messages == [expected] * 4
    assert run_as_processes(monkeypatch, [partial(step, 0), partial(step, 0)]) == [None, None]
