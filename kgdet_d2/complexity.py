"""Parameters and multiply-adds of a dense detector or an R-CNN, module by module.

The network runs on PyTorch's meta device: shapes alone, neither weights nor arithmetic. Two sums are kept:

- *Multiply-adds* of convolutions, matrix products and deformable convolutions; a fused multiply-add is one,
  as in :mod:`detectron2.utils.analysis`. A deformable convolution counts as the dense one of its size.
  Reading features between locations counts nothing, whichever way the device at hand does it.
- *The paper's FLOPs* (Table 1): without deformable convolutions, but with the additions of a convolution's
  bias, one for each element that enters a ReLU or a pooling, and two for each that enters a BatchNorm.
  GroupNorm, interpolation and the making of boxes count nothing. Table 1 is at 1280 x 800, its parameters are
  the trainable ones. :func:`paper_differences` lists what its systems have otherwise than ours.

The heads of an R-CNN run for each box. They are counted at the full budget, the most that one image can cost:
the box head for ``MODEL.RPN.POST_NMS_TOPK_TEST`` proposals; the mask, landmark and matching heads for
``TEST.DETECTIONS_PER_IMAGE`` detections. Cutting boxes out of the features (ROIAlign) counts nothing. The
landmark head makes the maps of all classes; enlarging and decoding the predicted class's counts nothing. The
matching head embeds; comparing embeddings belongs to no single image.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass
from functools import partial
from operator import add, sub
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN, StandardROIHeads, build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import BaseKeypointRCNNHead, BaseMaskRCNNHead
from detectron2.structures import Boxes
from tabulate import SEPARATING_LINE, tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from kgdet_d2.config import load_config
from kgdet_d2.layers.deform_conv import DeformConv
from kgdet_d2.modeling import KGDet
from kgdet_d2.modeling.backbone.fpn import FINE
from kgdet_d2.modeling.heads.keypoint_refiner import Garments, KeypointRefiner
from kgdet_d2.modeling.match_rcnn import FashionROIHeads, FashionRPN, MatchRCNN, MatchRCNNHeads
from kgdet_d2.utils.command import command_parser
from kgdet_d2.utils.io import write_json

DESCRIPTION = """Count a model's parameters and multiply-adds, by part.

    kgdet analyze --config-file kgdet_R50.yaml
    kgdet analyze --config-file kgdet_R50.yaml --size 1333 800 MODEL.RESNETS.DEPTH 101

No weights, data or GPU are needed. Columns:

    parameters     of all layers, frozen ones included
    trainable      those that learn; the paper's "param."
    conv G         10^9 multiply-adds of convolutions and matrix products
    deformable G   the same of deformable convolutions
    total G        both together: what one image costs; of an R-CNN, the most that one can cost
    paper's G      the paper's "FLOPs": no deformable convolutions, but biases, ReLU, BatchNorm and pooling

Some systems of the paper's Table 1 have parts that ours lack or have otherwise, as the neck's parts that
reach no output (MODEL.FPN.FULL). Each such difference has its row, and a second sum has them all: it is the
one to hold against the paper.
"""
GIGA = 1e9
HEADERS = ["part", "parameters", "trainable", "conv G", "deformable G", "total G", "paper's G"]


@dataclass(frozen=True)
class Complexity:
    """Counts of a part of a network; those of disjoint parts add up.

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
        """Multiply-adds of all products."""
        return self.convolution + self.deformable

    @property
    def paper_flops(self) -> int:
        """FLOPs as the paper counts them."""
        return self.convolution + self.elementwise

    def __add__(self, other: "Complexity") -> "Complexity":
        return Complexity(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Complexity") -> "Complexity":
        return Complexity(*map(sub, astuple(self), astuple(other)))


def count_by_module(cfg: CfgNode, width: int = 1280, height: int = 800) -> dict[str, Complexity]:
    """Count one pass of one image through the config's model, up to the output of its heads.

    What comes between and after, selection and NMS, counts nothing. Flip fusion would be a second pass.

    Args:
        cfg: of a dense detector (backbone and head), or of an R-CNN with Detectron2's standard heads or Match
            R-CNN's, which is counted at its full budget of boxes.
        width: of the image in pixels; it is padded to sides that the backbone can halve to the end.
        height: of the image in pixels, padded likewise.

    Returns:
        ``{part: counts}`` of disjoint parts that make up the model: "backbone", "neck" where the backbone has
        one, each child of a dense detector's head as "head.<name>", those of an R-CNN ("rpn", "box_head" with
        its predictor, "mask_head", "keypoint_head", "matching_head"), and "other" for what lies in none.

    Raises:
        ValueError: the size is not positive, the model is neither of the two, or detections have no limit.
    """
    if width < 1 or height < 1:
        raise ValueError(f"size: expected a positive width and height, got {width} x {height}")
    model = _build_countable_model(cfg)
    unit = max(model.backbone.size_divisibility, 1)
    padded = [-(-side // unit) * unit for side in (height, width)]
    products = FlopCounterMode(display=False, custom_mapping=_PRODUCTS)
    elementwise = FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE)
    with torch.no_grad(), products, elementwise:
        model(torch.empty(1, 3, *padded, device="meta"))

    def count(module: str) -> Complexity:
        operators = _flops_within(products, model, module)
        flops = _flops_within(elementwise, model, module)
        deformable = operators[_DEFORM_CONV]
        return _count_parameters(model.get_submodule(module)) + Complexity(
            convolution=(operators.total() - deformable) // 2,  # PyTorch counts a multiply-add twice
            deformable=deformable // 2,
            elementwise=sum(flops[operator] for operator in _ELEMENTWISE),
        )

    parts = {"backbone": count("backbone")}
    if hasattr(model.backbone, "bottom_up"):
        bottom_up = count("backbone.bottom_up")
        parts = {"backbone": bottom_up, "neck": parts["backbone"] - bottom_up}
    heads = _dense_parts(model) if isinstance(model, DenseDetector) else _rcnn_parts(model)
    for part, modules in heads.items():
        parts[part] = sum(map(count, modules), Complexity())
    rest = count("") - total(parts)
    return parts if rest == Complexity() else parts | {"other": rest}


def total(parts: Mapping[str, Complexity]) -> Complexity:
    """Return the sum of disjoint parts."""
    return sum(parts.values(), Complexity())


def paper_differences(cfg: CfgNode, width: int = 1280, height: int = 800) -> dict[str, Complexity]:
    """Count what the system of the paper's Table 1 has otherwise than the config's model.

    Args:
        cfg: as in :func:`count_by_module`.
        width: as there.
        height: as there.

    Returns:
        ``{difference: counts}``, those that are not zero. Added to the total of :func:`count_by_module` they
        make Table 1's numbers: parameters to the last one, FLOPs to the 0.01 G that are printed there.
    """
    changes = {"the neck's parts that reach no output": ["MODEL.FPN.FULL", True]}
    if cfg.MODEL.META_ARCHITECTURE == "FCOS":
        # What was counted is MMDetection's, with the ResNet of Caffe.
        changes["ResNet's stride in its 1x1 convolutions"] = ["MODEL.RESNETS.STRIDE_IN_1X1", True]
        changes["BatchNorm whose weights do not learn"] = ["MODEL.RESNETS.NORM", "FrozenBN"]
    differences = {}
    before = total(count_by_module(cfg, width, height))
    for name, change in changes.items():
        cfg = cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(change)
        after = total(count_by_module(cfg, width, height))
        differences[name] = after - before
        before = after
    if cfg.MODEL.META_ARCHITECTURE == "FCOS":
        levels = len(cfg.MODEL.FPN.OUT_FEATURES)
        differences["a factor for each level's boxes"] = Complexity(parameters=levels, trainable=levels)
    return {name: counts for name, counts in differences.items() if counts != Complexity()}


def _flops_within(counter: FlopCounterMode, model: nn.Module, module: str) -> Counter:
    """Return the counted FLOPs of a submodule, by operator.

    Of one that is not itself called, as a head's stage with methods of its own, the called ones inside count.
    """
    flops = counter.get_flop_counts()
    path = ".".join(filter(None, (type(model).__name__, module)))
    if path in flops:
        return Counter(flops[path])
    names = [name for name, _ in model.get_submodule(module).named_children()]
    return sum((_flops_within(counter, model, f"{module}.{name}") for name in names), Counter())


def _count_parameters(module: nn.Module) -> Complexity:
    parameters = list(module.parameters())
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    # Detectron2's frozen BatchNorm keeps its weight and bias as buffers.
    for submodule in module.modules():
        if isinstance(submodule, FrozenBatchNorm2d):
            parameters += [submodule.weight, submodule.bias]
    return Complexity(parameters=sum(parameter.numel() for parameter in parameters), trainable=trainable)


def _dense_parts(model: DenseDetector) -> dict[str, list[str]]:
    """Return ``{part: modules}`` of a dense detector's head: its children, of a list each item."""
    parts: dict[str, list[str]] = {}
    for name, child in model.head.named_children():
        if isinstance(child, nn.ModuleList):
            parts |= {f"head.{name}.{index}": [f"head.{name}.{index}"] for index in range(len(child))}
        else:
            parts[f"head.{name}"] = [f"head.{name}"]
    if getattr(model, "refiner", None) is not None:
        parts["refiner"] = ["refiner"]
    return parts


def _rcnn_parts(model: GeneralizedRCNN) -> dict[str, list[str]]:
    """Return ``{part: modules}`` of what stands behind an R-CNN's backbone."""
    parts = {
        "rpn": ["proposal_generator.rpn_head"],
        "box_head": ["roi_heads.box_head", "roi_heads.box_predictor"],
    }
    others = ("mask_head", "keypoint_head", "matching_head")
    return parts | {name: [f"roi_heads.{name}"] for name in others if hasattr(model.roi_heads, name)}


# What FlopCounterMode counts beside PyTorch's own formulas, which know convolutions and matrix products: for
# each operator a function of its arguments' shapes. A multiply-add is two FLOPs there.


def _deform_conv_flops(x: list[int], weight: list[int], *_, out_shape: list[int], **__) -> int:
    # Every output gathers one filter.
    return 2 * torch.Size(out_shape).numel() * torch.Size(weight[1:]).numel()


def _bias_additions(
    x: list[int], weight: list[int], bias: list[int] | None, *_, out_shape: list[int], **__
) -> int:
    return 0 if bias is None else torch.Size(out_shape).numel()


def _operations_per_input(times: int) -> Callable[..., int]:
    return lambda x, *_, **__: times * torch.Size(x).numel()


_ATEN = torch.ops.aten
_DEFORM_CONV = torch.ops.torchvision.deform_conv2d
_PRODUCTS = {_DEFORM_CONV: _deform_conv_flops}
_ELEMENTWISE = {
    _ATEN.convolution: _bias_additions,
    _ATEN.native_batch_norm: _operations_per_input(2),
    # FlopCounterMode decomposes it into this one, and counts each operator that it does not decompose.
    _ATEN._native_batch_norm_legit_no_training: _operations_per_input(2),
    _ATEN.relu: _operations_per_input(1),
    _ATEN.relu_: _operations_per_input(1),
    _ATEN.max_pool2d_with_indices: _operations_per_input(1),
    _ATEN.avg_pool2d: _operations_per_input(1),
}


def _build_countable_model(cfg: CfgNode) -> DenseDetector | GeneralizedRCNN:
    """Build the config's model on the meta device, to go from a padded image to raw predictions."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).eval()
    if isinstance(model, DenseDetector):
        model.forward = partial(_predict_densely, model)
    elif _is_known_rcnn(model):
        _use_full_budget(model)
    else:
        raise ValueError(
            "MODEL.META_ARCHITECTURE: expected a dense detector, or GeneralizedRCNN or MatchRCNN with an RPN "
            f"and FashionROIHeads or MatchRCNNHeads, got {cfg.MODEL.META_ARCHITECTURE!r} with "
            f"{cfg.MODEL.PROPOSAL_GENERATOR.NAME!r} and {cfg.MODEL.ROI_HEADS.NAME!r}; "
            "Detectron2's tools/analyze_model.py averages over images"
        )
    for module in model.modules():
        if isinstance(module, DeformConv):
            # One operator, which can be counted, in place of what the device at hand makes of it.
            forward = partial(deform_conv2d, weight=module.weight, padding=module.padding)
            module.forward = forward  # type: ignore[method-assign]
    return model


def _predict_densely(model: DenseDetector, image: Tensor) -> None:
    features = model.backbone(image)
    model.head([features[name] for name in model.head_in_features])
    if isinstance(model, KGDet) and model.refiner is not None:
        _refine_at_full_budget(model.refiner, model.postprocessor.max_detections, features[FINE])


def _refine_at_full_budget(refiner: KeypointRefiner, number: int, fine: Tensor) -> None:
    """Refine as many detections as the config allows, as if each had the most keypoints."""
    zeros = torch.zeros(number, dtype=torch.long, device=fine.device)
    keypoints = fine.new_empty(number, refiner.slots.shape[1], 2)
    refiner(fine, Garments(image=zeros, classes=zeros, boxes=fine.new_empty(number, 4), keypoints=keypoints))


def _is_known_rcnn(model: nn.Module) -> bool:
    """Return whether all that the model computes is counted."""
    # Exactly these: a subclass may compute more, as PanopticFPN and CascadeROIHeads do.
    return (
        type(model) in (GeneralizedRCNN, MatchRCNN)
        and type(model.proposal_generator) in (RPN, FashionRPN)
        and type(model.roi_heads) in (StandardROIHeads, FashionROIHeads, MatchRCNNHeads)
    )


def _use_full_budget(model: GeneralizedRCNN) -> None:
    """Replace forwards, so that the heads run for as many boxes as the config allows.

    Boxes are neither selected nor cut out of the features: the heads get tensors of the right shape.

    Raises:
        ValueError: the number of detections has no limit.
    """
    if model.roi_heads.box_predictor.test_topk_per_image < 0:
        raise ValueError(
            "TEST.DETECTIONS_PER_IMAGE: expected a limit, without which an R-CNN's cost has none, "
            f"got {model.roi_heads.box_predictor.test_topk_per_image}"
        )
    model.forward = partial(_predict_at_full_budget, model)
    for module in model.modules():
        if isinstance(module, ROIPooler):
            module.forward = partial(_pool, module.output_size)
        elif isinstance(module, BaseMaskRCNNHead | BaseKeypointRCNNHead):
            module.forward = module.layers  # without decoding the maps that they make


def _predict_at_full_budget(model: GeneralizedRCNN, image: Tensor) -> None:
    """Run all parts on a padded image (1, 3, H, W)."""
    rpn, heads = model.proposal_generator, model.roi_heads
    proposals = [Boxes(image.new_empty(rpn.post_nms_topk[False], 4))]  # False: not in training
    detections = [Boxes(image.new_empty(heads.box_predictor.test_topk_per_image, 4))]
    features = model.backbone(image)
    rpn.rpn_head([features[name] for name in rpn.in_features])
    maps = [features[name] for name in heads.in_features]
    heads.box_predictor(heads.box_head(heads.box_pooler(maps, proposals)))
    if heads.mask_on:
        heads.mask_head(heads.mask_pooler(maps, detections))
    if heads.keypoint_on:
        heads.keypoint_head(heads.keypoint_pooler(maps, detections))
    if isinstance(heads, MatchRCNNHeads):
        heads.matching_head(features, detections)


def _pool(size: tuple[int, int], maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
    """Return an empty tensor of the shape that a ``ROIPooler`` returns."""
    return maps[0].new_empty(sum(map(len, boxes)), maps[0].shape[1], *size)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet analyze``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument(
        "--size", type=int, nargs=2, default=[1280, 800], metavar=("WIDTH", "HEIGHT"), help="in pixels"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the counts there, too")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the config")
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the counts of a config's model, and write them where ``--json`` asks for it."""
    cfg = load_config(args.config_file, args.opts)
    parts = count_by_module(cfg, *args.size)
    differences = paper_differences(cfg, *args.size)
    sums = {"as built": total(parts)}
    if differences:
        sums["as Table 1 counts"] = sums["as built"] + total(differences)
    print("{} at {} x {} pixels".format(args.config_file, *args.size))
    if "rpn" in parts:
        print(
            "and as many boxes as there can be:\n"
            f"box head: {cfg.MODEL.RPN.POST_NMS_TOPK_TEST} proposals (MODEL.RPN.POST_NMS_TOPK_TEST)\n"
            f"other heads: {cfg.TEST.DETECTIONS_PER_IMAGE} detections (TEST.DETECTIONS_PER_IMAGE)"
        )
    print(f"\n{_table(parts, differences, sums)}\n")
    for name, counts in sums.items():
        parameters, flops = counts.trainable / 1e6, counts.paper_flops / GIGA
        print(f"The paper's convention, {name}: {parameters:.2f} M / {flops:.2f} G")
    if args.json:
        width, height = args.size
        report = {"config_file": args.config_file, "overrides": args.opts, "width": width, "height": height}
        for title, group in {"parts": parts, "differences": differences, "sums": sums}.items():
            report[title] = {name: _all_counts(counts) for name, counts in group.items()}
        write_json(args.json, report)


def _table(
    parts: dict[str, Complexity], differences: dict[str, Complexity], sums: dict[str, Complexity]
) -> str:
    """Return the parts and their sum, then the differences from the paper's system and the sum with them."""
    rows: list[list[str] | str] = []
    for terms, (name, counts) in zip((parts, differences), sums.items(), strict=False):
        rows += [_row(term, term_counts) for term, term_counts in terms.items()]
        rows += [SEPARATING_LINE, _row(name, counts)]
    alignment = ["left", *["right"] * (len(HEADERS) - 1)]
    return tabulate(rows, HEADERS, colalign=alignment, disable_numparse=True)


def _row(name: str, counts: Complexity) -> list[str]:
    billions = (counts.convolution, counts.deformable, counts.multiply_adds, counts.paper_flops)
    numbers = [f"{counts.parameters:,}", f"{counts.trainable:,}", *(f"{n / GIGA:.2f}" for n in billions)]
    return [name, *numbers]


def _all_counts(counts: Complexity) -> dict[str, int]:
    return asdict(counts) | {"multiply_adds": counts.multiply_adds, "paper_flops": counts.paper_flops}
