"""What a worker process of ``benchmarks model`` times: one detector, or one aggregation.

It runs with the package of any checkout, this one's or that of an earlier commit.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import Boxes, ImageList, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

import kgdet_d2
from benchmarks._timing import Clock, peak_megabytes
from kgdet_d2.config import check_weights, load_config
from kgdet_d2.data import FashionDatasetMapper
from kgdet_d2.evaluation import FashionEvaluator

GARMENTS, LABELLED = 2, 25  # of each random image, and keypoints of each garment
REST = "rest"
# Every system reads one of these, and none of the others.
THRESHOLDS = [f"MODEL.{system}.SCORE_THRESH_TEST" for system in ("KGDET", "RETINANET", "FCOS")]
SCORES = {"box AP": ("bbox", "AP"), "AP50": ("bbox", "AP50"), "landmark AP": ("keypoints", "AP")}

_subject: "Detector | Aggregation"


def start(subject: str, threads: int, **request: Any) -> dict:
    """Build what this process times.

    Returns:
        ``{"package": folder of the package that it is built of, "inputs": weights and datasets, if any}``.
    """
    global _subject
    torch.set_num_threads(threads)
    _subject = {"detector": Detector, "aggregation": Aggregation}[subject](**request)
    return {"package": kgdet_d2.__path__[0], "inputs": getattr(_subject, "inputs", None)}


def run(method: str, repetition: int) -> dict:
    """Time one run of a method; the first one warms up, and has the memory.

    Returns:
        ``{"ms": {"all": float, part: float}, "detections": int or None, "peak_mb": float or None}``.
    """
    prepared = _subject.prepare(method, repetition)
    peak, detections = (None, prepared()) if repetition else peak_megabytes(_subject.device, prepared)
    return {"ms": _subject.clock.read(), "detections": detections, "peak_mb": peak}


def score() -> dict[str, float]:
    """Return the detector's AP on the whole of its test set."""
    return _subject.score()


def find(*names: str) -> Any:
    """Return the first ``module:attribute`` that this checkout has; earlier commits had other names.

    Raises:
        ImportError: it has none.
    """
    package = Path(kgdet_d2.__path__[0])
    for name in names:
        module, attribute = name.split(":")
        path = package.joinpath(*module.split(".")[1:])
        # Not by trying to import: an editable installation adds its modules to those of this checkout.
        if (path.is_dir() or path.with_suffix(".py").is_file()) and hasattr(import_module(module), attribute):
            return getattr(import_module(module), attribute)
    raise ImportError(f"{package}: expected one of {', '.join(names)}, found none")


class Detector:
    """A config's model, and images for it: of noise for random weights, else of the test set.

    Args:
        config: the yaml file.
        opts: KEY VALUE overrides.
        variant: with a name, the model is optimised as ``MODEL.INFERENCE`` says, and cannot be trained.
        images: how many images of noise a batch has; None for ``MODEL.WEIGHTS`` and the images of the test
            set, a batch each.
        size: height and width of the noise.
        own_size: the noise has the size that a photo of ``size`` has for the network, as ``INPUT`` says.
        candidates: pairs of location and class of the first image of noise that pass the score threshold.
    """

    def __init__(
        self,
        *,
        config: str,
        opts: list[str],
        variant: str,
        images: int | None,
        size: tuple[int, int],
        own_size: bool,
        candidates: int,
        device: str,
        precision: str,
        channels_last: bool,
    ):
        self.device, self.clock = torch.device(device), Clock(device)
        self.autocast = _autocast(self.device, precision)
        cfg = self.cfg = load_config(config, ["MODEL.DEVICE", device, "SOLVER.BASE_LR", 0.0, *opts])
        cfg.defrost()
        if images is None:
            check_weights(cfg, required=True)
            self.inputs = [cfg.MODEL.WEIGHTS, *cfg.DATASETS.TEST]
            self.mapper = FashionDatasetMapper(cfg, is_train=False)
            self.batches = [[self.mapper(record)] for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])]
        else:
            keypoints = cfg.MODEL.KGDET.NUM_KEYPOINTS
            if own_size:
                size = ResizeShortestEdge.get_output_shape(
                    *size, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
                )
            self.batches = [[random_image(seed, *size, keypoints) for seed in range(images)]]
            threshold = self._score_threshold(build(cfg, channels_last), candidates)
            cfg.merge_from_list([item for key in THRESHOLDS for item in (key, threshold)])
        self.model = build(cfg, channels_last)
        if images is None:
            DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self._kept: dict[int, tuple] = {}
        if variant:
            optimize = find("kgdet_d2.modeling:optimize_for_inference", "kgdet_d2.modeling:for_inference")
            self.model = optimize(self.model.eval(), cfg)
            if cfg.MODEL.INFERENCE.PRECISION != "float32":  # the bare backbone's, too
                self.autocast = _autocast(self.device, cfg.MODEL.INFERENCE.PRECISION)
        else:
            names = ("kgdet_d2.engine.optimizer:build_optimizer", "kgdet_d2.solver:build_optimizer")
            self.optimizer = find(*names)(cfg, self.model)
        self._time_parts(compiled=bool(variant) and cfg.MODEL.INFERENCE.COMPILE)

    def _score_threshold(self, model: nn.Module, candidates: int) -> float:
        """Return the score that so many pairs of location and class of the first image reach."""
        with torch.no_grad(), self.autocast():
            features = model.eval().backbone(model.preprocess_image(self.batches[0][:1]).tensor)
            output = model.head([features[name] for name in model.head_in_features])
        # Maps of each level: of the last stage, or of classes and, in FCOS, of centerness after the boxes.
        factors = [output[-1].logits] if hasattr(output[-1], "logits") else [output[0], *output[2:]]
        levels = [[level.movedim(1, -1).flatten(0, 2) for level in factor] for factor in factors]
        scores = math.prod(torch.cat(factor).float().sigmoid() for factor in levels)
        scores = scores.flatten() if len(factors) == 1 else scores.sqrt().flatten()
        return scores.topk(min(candidates, len(scores))).values[-1].item()

    def _time_parts(self, compiled: bool) -> None:
        """Time the model's methods by part. A compiled backbone and neck are one part."""
        model, backbone = self.model, self.model.backbone
        bottom_up = backbone if compiled else getattr(backbone, "bottom_up", backbone)
        self.bare_backbone = bottom_up.forward
        parts = [("preprocess", model, "preprocess_image"), ("backbone", bottom_up, "forward")]
        parts += [] if compiled else [("neck", backbone, "forward")]
        # An earlier head has "last_stage" for inference, a dense one only "forward".
        parts += [("head", model.head, method) for method in ("forward", "predict", "last_stage")]
        # In training the criterion calls it, within the loss.
        parts += [("refiner", getattr(model, "refiner", None), "forward")]
        parts += [("loss", model, "forward_training"), ("postprocess", model, "forward_inference")]
        # KGDet's head calls the first of these between classes and landmarks.
        postprocessor = getattr(model, "postprocessor", None)
        parts += [("postprocess", postprocessor, method) for method in ("select_locations", "detect")]
        for name, owner, method in parts:
            if hasattr(owner, method):
                setattr(owner, method, self.clock.span(name, getattr(owner, method)))

    def prepare(self, method: str, repetition: int) -> Callable[[], int | None]:
        """Return one timed run of a method, with what it starts from made before."""
        row = repetition % len(self.batches)
        images = self.batches[row]
        self.model.train(method.endswith("training"))
        if method != "head":
            return self.clock.span(REST, partial(getattr(self, method), images))
        if row not in self._kept:
            with torch.no_grad(), self.autocast():
                preprocessed = self.model.preprocess_image(images)
                features = self.model.backbone(preprocessed.tensor)
            self._kept[row] = preprocessed, {name: level.clone() for name, level in features.items()}
            self.clock.read()
        return self.clock.span(REST, partial(self.head, images, *self._kept[row]))

    def score(self) -> dict[str, float]:
        """Return AP on the whole of the test set."""
        (name,) = self.cfg.DATASETS.TEST
        loader = build_detection_test_loader(self.cfg, name, mapper=self.mapper)
        evaluator = FashionEvaluator(name, kpt_oks_sigmas=self.cfg.TEST.KEYPOINT_OKS_SIGMAS)
        with self.autocast():
            results = inference_on_dataset(self.model, loader, evaluator)
        self.clock.read()
        return {name: results[task][metric] for name, (task, metric) in SCORES.items() if task in results}

    def inference(self, images: list[dict]) -> int:
        """Return the number of detections."""
        with torch.no_grad(), self.autocast():
            return sum(len(output["instances"]) for output in self.model(images))

    def head(self, images: list[dict], preprocessed: ImageList, features: dict[str, Tensor]) -> int:
        """Run inference on what the backbone gave before, and return the number of detections."""
        with (
            patch.object(self.model, "preprocess_image", lambda _: preprocessed),
            patch.object(self.model.backbone, "forward", lambda _: features),
        ):
            return self.inference(images)

    def training(self, images: list[dict]) -> None:
        """Make one step, with a learning rate of 0."""
        with EventStorage(), self.autocast():
            loss = sum(self.model(images).values())
        self.clock.span("backward", loss.backward)()
        self.clock.span("optimiser", self.optimizer.step)()
        self.optimizer.zero_grad()

    def backbone_inference(self, images: list[dict]) -> None:
        """Run the bare backbone."""
        tensor = self.model.preprocess_image(images).tensor
        with torch.no_grad(), self.autocast():
            self.clock.span("backbone", self.bare_backbone)(tensor)

    def backbone_training(self, images: list[dict]) -> None:
        """Run the bare backbone there and back."""
        tensor = self.model.preprocess_image(images).tensor

        def forward_and_backward() -> None:
            with self.autocast():
                features = self.bare_backbone(tensor)
            sum(level.sum() for level in features.values()).backward()

        self.clock.span("backbone", forward_and_backward)()
        self.optimizer.zero_grad()


def build(cfg: CfgNode, channels_last: bool) -> nn.Module:
    """Return the model with the same random weights every time.

    They keep features from doubling at every block, and BatchNorms as they are.
    """
    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, BottleneckBlock) and module.conv3.norm is not None:
            module.conv3.norm.weight.data.mul_(0.2)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0
    return model.to(memory_format=torch.channels_last) if channels_last else model


def random_image(seed: int, height: int, width: int, num_keypoints: int) -> dict:
    """Return an image of noise with garments anywhere, as a mapper does."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height])
    corners = (torch.rand(GARMENTS, 2, 2, generator=generator) * size).sort(dim=1).values
    garments = Instances((height, width), gt_boxes=Boxes(corners.flatten(1)))
    garments.gt_classes = torch.arange(GARMENTS)
    keypoints = torch.rand(GARMENTS, num_keypoints, 3, generator=generator)
    keypoints[..., :2] *= size
    keypoints[..., 2] = 2 * (torch.arange(num_keypoints) < LABELLED)
    garments.gt_keypoints = Keypoints(keypoints)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    return {"image": image, "height": height, "width": width, "instances": garments}


def _autocast(device: torch.device, precision: str) -> Callable:
    """Return what makes a context of this precision."""
    if precision == "float32":
        return nullcontext
    return partial(torch.autocast, device.type, getattr(torch, precision))


class Aggregation:
    """Both branches of a stage, which sample random maps a few locations off; 256 channels."""

    def __init__(
        self,
        *,
        columns: list[int],
        size: tuple[int, int],
        batch: int,
        torchvision: bool,
        device: str,
        precision: str,
    ):
        torch.manual_seed(0)
        self.device, self.clock = torch.device(device), Clock(device)
        self.autocast = _autocast(self.device, precision)
        self.torchvision = torchvision
        aggregation = find(
            "kgdet_d2.modeling.heads.aggregation:PointAggregation",
            "kgdet_d2.modeling.heads.kgdet_head:PointAggregation",
            "kgdet_d2.modeling.aggregation:PointAggregation",
        )
        module = aggregation.__module__
        self.locations = find(f"{module}:SamplingLocations", f"{module}:SamplingPoints")
        make = partial(torch.randn, device=device)
        self.branches = [aggregation(256, 256, columns).to(device) for _ in range(2)]
        self.maps = [make(batch, 256, *size).requires_grad_() for _ in self.branches]
        self.points = (3 * make(batch, 2 * sum(columns), *size)).requires_grad_()
        self.upstream = [make(batch, 256 * len(columns), *size) for _ in self.branches]
        self.leaves = [*self.maps, self.points, *(w for branch in self.branches for w in branch.parameters())]

    def prepare(self, method: str, repetition: int) -> Callable[[], None]:
        """Return one timed run of a method."""
        return self.clock.span(REST, getattr(self, method))

    def forward(self) -> list[Tensor]:
        """Return the features of both branches."""
        with self.autocast():
            if self.torchvision:
                sample, points = _by_torchvision, self.points
            else:
                sample, points = nn.Module.__call__, self.locations(self.points)
            branches = zip(self.branches, self.maps, strict=True)
            return [sample(branch, features, points) for branch, features in branches]

    def inference(self) -> None:
        """Run forward."""
        with torch.no_grad():
            self.forward()

    def training(self) -> None:
        """Run forward and backward."""
        torch.autograd.grad(self.forward(), self.leaves, self.upstream)


def _by_torchvision(branch: nn.Module, features: Tensor, points: Tensor) -> Tensor:
    """Return what the branch gives, (N, columns x 256, H, W), by torchvision's kernel."""
    offsets = (points - branch.grids).split([2 * count for count in branch.columns], dim=1)
    columns = [
        deform_conv2d(features, offset, conv.weight, padding=conv.padding)
        for conv, offset in zip(branch.convs, offsets, strict=True)
    ]
    return torch.cat(columns, dim=1).relu()
