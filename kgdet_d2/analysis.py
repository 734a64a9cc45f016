"""Parameters and multiply-adds of a dense detector or an R-CNN, by part.

The network runs on PyTorch's meta device: shapes alone, neither weights nor arithmetic. Two sums are kept:

- *Multiply-adds* of convolutions, matrix products and deformable convolutions; a fused multiply-add is one,
  as in :mod:`detectron2.utils.analysis`. A deformable convolution counts as the dense one of its size.
  Reading features between cells counts nothing, whichever way the device at hand does it.
- *The paper's FLOPs* (Table 1): without deformable convolutions, but with the additions of a convolution's
  bias, one for each element that enters a ReLU or a pooling, and two for each that enters a BatchNorm.
  GroupNorm, interpolation and the making of boxes count nothing. Table 1 is at 1280 x 800, its parameters are
  the trainable ones. What its systems have otherwise than ours, :func:`table_1_differences` tells.

The heads of an R-CNN run for each box. They are counted at the full budget, the most that one image can cost:
the box head for ``MODEL.RPN.POST_NMS_TOPK_TEST`` proposals; the mask, landmark and matching heads for
``TEST.DETECTIONS_PER_IMAGE`` detections. Cutting boxes out of the features (ROIAlign) counts nothing. The
landmark head makes the maps of all classes; enlarging and decoding the predicted class's counts nothing. The
matching head embeds; comparing embeddings belongs to no single image.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import partial
from operator import add, sub

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker
from torchvision.ops import deform_conv2d

from kgdet_d2.analysis_rcnn import is_known_rcnn, rcnn_parts, run_at_full_budget
from kgdet_d2.layers.deform_conv import DeformConv


@dataclass(frozen=True)
class Counts:
    """Of a part of a network; counts of disjoint parts add up.

    Attributes:
        parameters: weights of all layers, frozen ones and frozen BatchNorms included.
        trainable: those of them that train.
        convolution: multiply-adds of convolutions and matrix products.
        deformable: multiply-adds of deformable convolutions.
        elementwise: additions of biases, ReLU, BatchNorm and pooling, as the paper counts them.
    """

    parameters: int = 0
    trainable: int = 0
    convolution: int = 0
    deformable: int = 0
    elementwise: int = 0

    @property
    def multiply_adds(self) -> int:
        return self.convolution + self.deformable

    @property
    def paper_flops(self) -> int:
        return self.convolution + self.elementwise

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*map(sub, astuple(self), astuple(other)))


def count_parts(cfg: CfgNode, width: int = 1280, height: int = 800) -> dict[str, Counts]:
    """Counts of the config's model for one pass of one image, up to what its heads give.

    What comes between and after, selection and NMS, counts nothing. Flip fusion would be a second pass.

    Args:
        cfg: of a dense detector (backbone and head), or of an R-CNN with Detectron2's standard heads or Match
            R-CNN's, which is counted at its full budget of boxes.
        width, height: of the image in pixels; it is padded to sides that the backbone can halve to the end.

    Returns:
        ``{part: counts}`` of disjoint parts that make up the model: "backbone", "neck" where the backbone has
        one, each child of a dense detector's head as "head.<name>", those of :func:`rcnn_parts`, and "other"
        for what lies in none of them.

    Raises:
        ValueError: the size is not positive, the model is neither of the two, or detections have no limit.
    """
    if width < 1 or height < 1:
        raise ValueError(f"size: expected a positive width and height, got {width} x {height}")
    model = _build(cfg)
    unit = max(model.backbone.size_divisibility, 1)
    padded = [-(-side // unit) * unit for side in (height, width)]
    with torch.no_grad(), _OperatorCounter() as counter:
        model(torch.empty(1, 3, *padded, device="meta"))

    def of(name: str) -> Counts:
        return _count_parameters(model.get_submodule(name)) + counter.within(model, name)

    parts = {"backbone": of("backbone")}
    if hasattr(model.backbone, "bottom_up"):
        bottom_up = of("backbone.bottom_up")
        parts = {"backbone": bottom_up, "neck": parts["backbone"] - bottom_up}
    dense = isinstance(model, DenseDetector)
    heads = {name: [name] for name in _head_parts(model.head)} if dense else rcnn_parts(model)
    parts |= {part: sum(map(of, names), Counts()) for part, names in heads.items()}
    rest = of("") - total(parts)
    return parts if rest == Counts() else parts | {"other": rest}


def total(parts: dict[str, Counts]) -> Counts:
    """The counts of the whole model."""
    return sum(parts.values(), Counts())


def table_1_differences(cfg: CfgNode, width: int = 1280, height: int = 800) -> dict[str, Counts]:
    """What the system that the paper's Table 1 counts has otherwise than the config's model.

    Args:
        cfg, width, height: as in :func:`count_parts`.

    Returns:
        ``{difference: counts}``, those that are not zero. Added to the total of :func:`count_parts` they make
        Table 1's numbers: parameters to the last one, FLOPs to the 0.01 G that are printed there.
    """
    changes = {"the neck's parts that reach no output": ["MODEL.FPN.FULL", True]}
    if cfg.MODEL.META_ARCHITECTURE == "FCOS":
        # What was counted is MMDetection's, with the ResNet of Caffe.
        changes["ResNet's stride in its 1x1 convolutions"] = ["MODEL.RESNETS.STRIDE_IN_1X1", True]
        changes["BatchNorm whose weights do not learn"] = ["MODEL.RESNETS.NORM", "FrozenBN"]
    differences = {}
    before = total(count_parts(cfg, width, height))
    for name, change in changes.items():
        cfg = cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(change)
        after = total(count_parts(cfg, width, height))
        differences[name] = after - before
        before = after
    if cfg.MODEL.META_ARCHITECTURE == "FCOS":
        levels = len(cfg.MODEL.FPN.OUT_FEATURES)
        differences["a factor for each level's boxes"] = Counts(parameters=levels, trainable=levels)
    return {name: counts for name, counts in differences.items() if counts != Counts()}


def _build(cfg: CfgNode) -> DenseDetector | GeneralizedRCNN:
    """The config's model on the meta device, made to go from a padded image to raw predictions."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).eval()
    if isinstance(model, DenseDetector):
        model.forward = partial(_predict, model)
    elif is_known_rcnn(model):
        run_at_full_budget(model)
    else:
        raise ValueError(
            "MODEL.META_ARCHITECTURE: expected a dense detector, or GeneralizedRCNN or MatchRCNN with an RPN "
            f"and StandardROIHeads or MatchRCNNHeads, got {cfg.MODEL.META_ARCHITECTURE!r} with "
            f"{cfg.MODEL.PROPOSAL_GENERATOR.NAME!r} and {cfg.MODEL.ROI_HEADS.NAME!r}; "
            "Detectron2's tools/analyze_model.py averages over images"
        )
    for module in model.modules():
        if isinstance(module, DeformConv):
            # One operator, which can be counted, in place of what the device at hand makes of it.
            module.forward = partial(deform_conv2d, weight=module.weight, padding=module.padding)
    return model


def _predict(model: DenseDetector, image: Tensor) -> None:
    features = model.backbone(image)
    model.head([features[name] for name in model.head_in_features])


def _count_parameters(module: nn.Module) -> Counts:
    parameters = list(module.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    # Detectron2's frozen BatchNorm keeps its weight and bias as buffers.
    frozen = [m for m in module.modules() if isinstance(m, FrozenBatchNorm2d)]
    parameters += [p for m in frozen for p in (m.weight, m.bias)]
    return Counts(*(sum(p.numel() for p in some) for some in (parameters, trainable)))


def _head_parts(head: nn.Module) -> Iterator[str]:
    for name, child in head.named_children():
        if isinstance(child, nn.ModuleList):
            yield from (f"head.{name}.{index}" for index in range(len(child)))
        else:
            yield f"head.{name}"


class _OperatorCounter(TorchDispatchMode):
    """While active, counts the operators that run, for every module that they run in."""

    def __init__(self):
        super().__init__()
        self._tracker = ModuleTracker()
        self._counts = defaultdict(Counts)

    def __enter__(self):
        self._tracker.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._tracker.__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := _OPERATORS.get(func.overloadpacket):
            for name in self._tracker.parents:
                self._counts[name] += count(args, out)
        return out

    def within(self, root: nn.Module, name: str) -> Counts:
        """Counts of the submodule ``name`` of the module that was called, "" being itself."""
        return self._counts[".".join(filter(None, (type(root).__name__, name)))]


def _convolution(args: tuple, out: Tensor) -> Counts:
    x, weight, bias, *_, transposed, _, _ = args
    # Every output gathers one filter; in a transposed convolution every input spreads one.
    multiply_adds = (x if transposed else out).numel() * weight[0].numel()
    return Counts(convolution=multiply_adds, elementwise=0 if bias is None else out.numel())


def _deformable(args: tuple, out: Tensor) -> Counts:
    weight = args[1]
    return Counts(deformable=out.numel() * weight[0].numel())


def _matrix_product(args: tuple, out: Tensor) -> Counts:
    return Counts(convolution=out.numel() * args[-1].shape[-2])


def _elementwise(times: int, args: tuple, out: Tensor) -> Counts:
    return Counts(elementwise=times * args[0].numel())


_ATEN = torch.ops.aten
_OPERATORS = {
    _ATEN.convolution: _convolution,
    torch.ops.torchvision.deform_conv2d: _deformable,
    _ATEN.mm: _matrix_product,
    _ATEN.addmm: _matrix_product,
    _ATEN.bmm: _matrix_product,
    _ATEN.native_batch_norm: partial(_elementwise, 2),
    _ATEN.relu: partial(_elementwise, 1),
    _ATEN.relu_: partial(_elementwise, 1),
    _ATEN.max_pool2d_with_indices: partial(_elementwise, 1),
    _ATEN.avg_pool2d: partial(_elementwise, 1),
}
