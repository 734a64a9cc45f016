"""What tools/benchmark.py starts: one detector, or one aggregation, timed on request.

Requests and answers are lines of JSON on standard input and output. PYTHONPATH names the package's tree.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from measuring import Clock, peak_megabytes
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

import kgdet_d2
from kgdet_d2.config import load_config
from kgdet_d2.engine.optimizer import build_optimizer
from kgdet_d2.modeling.heads import aggregation

GARMENTS = 2  # of each made-up photo
LANDMARKS = 25  # labelled of each garment
REST = "rest"


class Detector:
    """A config's model with random weights, and made-up photos for it."""

    def __init__(self, request: dict):
        self.device = torch.device(request["device"])
        opts = ["MODEL.DEVICE", request["device"], "MODEL.WEIGHTS", "", "SOLVER.BASE_LR", 0.0]
        cfg = load_config(request["config"], [*opts, *request["opts"]])
        torch.manual_seed(0)
        self.model = build_model(cfg)
        _tame(self.model)
        if request["channels_last"]:
            self.model.to(memory_format=torch.channels_last)
        self.photos = [
            _photo(index, *request["size"], cfg.MODEL.KGDET.NUM_KEYPOINTS)
            for index in range(request["photos"])
        ]
        self.autocast = _autocast(request)
        self._let_through(request["candidates"])
        self.clock = Clock(self.device)
        if request["variant"]:
            from kgdet_d2.modeling import optimize_for_inference  # earlier builds have none

            self.model = optimize_for_inference(self.model, cfg)
            if cfg.MODEL.INFERENCE.PRECISION != "float32":  # the bare backbone's, too
                self.autocast = _autocast(request | {"precision": cfg.MODEL.INFERENCE.PRECISION})
            self._split(compiled=cfg.MODEL.INFERENCE.COMPILE)
        else:
            self.optimizer = build_optimizer(cfg, self.model)
            self._split(compiled=False)

    def _let_through(self, candidates: int) -> None:
        """Set the threshold so that so many pairs of cell and class of the first photo pass it."""
        self.model.eval()
        with torch.no_grad(), self.autocast():
            features = self.model.backbone(self.model.preprocess_image(self.photos[:1]).tensor)
            said = self.model.head([features[name] for name in self.model.head_in_features])
        kinds = (
            [said[-1].logits] if hasattr(said[-1], "logits") else [said[0], *said[2:]]
        )  # FCOS: and centerness
        scores = math.prod(
            torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in kind]).float().sigmoid()
            for kind in kinds
        )
        if len(kinds) > 1:
            scores = scores.sqrt()
        threshold = scores.flatten().topk(min(candidates, scores.numel())).values[-1].item()
        if hasattr(self.model, "postprocessor"):
            self.model.postprocessor.score_threshold = threshold
        else:
            self.model.test_score_thresh = threshold

    def _split(self, compiled: bool) -> None:
        """What is compiled, backbone and neck together, cannot be split."""
        model, backbone = self.model, self.model.backbone
        bottom_up = getattr(backbone, "bottom_up", backbone)
        self.bare_backbone = (backbone if compiled else bottom_up).forward
        parts = [
            ("preprocess", model, "preprocess_image"),
            *([] if compiled else [("neck", backbone, "forward")]),
            ("backbone", backbone if compiled else bottom_up, "forward"),
            ("head", model.head, "forward"),
            ("head", model.head, "last_stage"),
            ("loss", model, "forward_training"),
            ("postprocess", model, "forward_inference"),
        ]
        for name, owner, function in parts:
            if hasattr(owner, function):
                setattr(owner, function, self.clock.span(name, getattr(owner, function)))

    def run(self, request: dict) -> dict:
        photos = self.photos[: request["batch"]]
        found = self.clock.span(REST, getattr(self, request["mode"]))(photos)
        return {"ms": self.clock.read(), "detections": found}

    def inference(self, photos: list[dict]) -> int:
        self.model.eval()
        with torch.no_grad(), self.autocast():
            return sum(len(output["instances"]) for output in self.model(photos))

    def training(self, photos: list[dict]) -> None:
        self.model.train()
        with EventStorage(), self.autocast():
            loss = sum(self.model(photos).values())
        self.clock.span("backward", loss.backward)()
        self.clock.span("optimiser", self.optimizer.step)()
        self.optimizer.zero_grad()

    def backbone_inference(self, photos: list[dict]) -> None:
        self.model.eval()
        images = self.model.preprocess_image(photos).tensor
        with torch.no_grad(), self.autocast():
            self.clock.span("backbone", self.bare_backbone)(images)

    def backbone_training(self, photos: list[dict]) -> None:
        self.model.train()
        images = self.model.preprocess_image(photos).tensor

        def both_ways():
            with self.autocast():
                features = self.bare_backbone(images)
            sum(level.sum() for level in features.values()).backward()

        self.clock.span("backbone", both_ways)()
        self.optimizer.zero_grad()


def _tame(model: nn.Module) -> None:
    """Keep random weights from doubling the features at every block, and BatchNorms as they are."""
    for module in model.modules():
        if isinstance(module, BottleneckBlock) and module.conv3.norm is not None:
            module.conv3.norm.weight.data.mul_(0.2)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0


def _photo(seed: int, height: int, width: int, num_keypoints: int) -> dict:
    """A photo of noise with garments anywhere."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height])
    corners = (torch.rand(GARMENTS, 2, 2, generator=generator) * size).sort(dim=1).values
    garments = Instances((height, width), gt_boxes=Boxes(corners.flatten(1)))
    garments.gt_classes = torch.arange(GARMENTS)
    keypoints = torch.rand(GARMENTS, num_keypoints, 3, generator=generator)
    keypoints[..., :2] *= size
    keypoints[..., 2] = 2 * (torch.arange(num_keypoints) < LANDMARKS)
    garments.gt_keypoints = Keypoints(keypoints)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    return {"image": image, "height": height, "width": width, "instances": garments}


def _autocast(request: dict) -> Callable:
    if request["precision"] == "float32":
        return nullcontext
    device, dtype = torch.device(request["device"]).type, getattr(torch, request["precision"])
    return lambda: torch.autocast(device, dtype)


class Aggregation:
    """Both branches of a stage, reading random maps a few cells off; 256 channels."""

    def __init__(self, request: dict):
        torch.manual_seed(0)
        device = torch.device(request["device"])
        columns, size, batch = request["columns"], request["size"], request["batch"]
        make = lambda *shape: torch.randn(*shape, device=device)  # noqa: E731
        self.branches = [aggregation.PointAggregation(256, 256, columns).to(device) for _ in range(2)]
        self.maps = [make(batch, 256, *size).requires_grad_() for _ in self.branches]
        self.points = (3 * make(batch, 2 * sum(columns), *size)).requires_grad_()
        self.upstream = [make(batch, 256 * len(columns), *size) for _ in self.branches]
        self.leaves = [*self.maps, self.points, *(w for branch in self.branches for w in branch.parameters())]
        self.by_torchvision = request["torchvision"]
        self.autocast = _autocast(request)
        self.clock = Clock(device)

    def forward(self) -> list[Tensor]:
        with self.autocast():
            if self.by_torchvision:
                return [
                    _by_torchvision(branch, features, self.points)
                    for branch, features in zip(self.branches, self.maps, strict=True)
                ]
            # In earlier builds every aggregation takes the points themselves.
            points = getattr(aggregation, "SamplingLocations", lambda points: points)(self.points)
            return [
                branch(features, points) for branch, features in zip(self.branches, self.maps, strict=True)
            ]

    def inference(self) -> None:
        with torch.no_grad():
            self.forward()

    def training(self) -> None:
        torch.autograd.grad(self.forward(), self.leaves, self.upstream)

    def run(self, request: dict) -> dict:
        self.clock.span(REST, getattr(self, request["mode"]))()
        return {"ms": self.clock.read()}


def _by_torchvision(branch: nn.Module, features: Tensor, points: Tensor) -> Tensor:
    offsets = (points - branch.grids).split([2 * points for points in branch.columns], dim=1)
    return torch.cat(
        [
            deform_conv2d(features, offset, conv.weight, padding=conv.padding)
            for conv, offset in zip(branch.convs, offsets, strict=True)
        ],
        dim=1,
    ).relu()


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    subject, device = None, None
    for line in sys.stdin:
        request = json.loads(line)
        if subject is None:
            torch.set_num_threads(request["threads"])
            device = torch.device(request["device"])
            subject = {"detector": Detector, "aggregation": Aggregation}[request["subject"]](request)
            answer = {"package": kgdet_d2.__path__[0]}
        elif request["memory"]:
            peak, answer = peak_megabytes(device, partial(subject.run, request))
            answer["peak_mb"] = peak
        else:
            answer = subject.run(request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
