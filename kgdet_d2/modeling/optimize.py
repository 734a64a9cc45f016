"""Fast inference of a trained model: folded BatchNorm, memory format, precision, compilation, kept memory."""

import ctypes
import logging
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kgdet_d2.geometry.points import to_float32
from kgdet_d2.modeling.backbone import TimmBackbone
from kgdet_d2.modeling.heads.kgdet_head import PointSetHead

logger = logging.getLogger(__name__)

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)
_DENSE_HEADS = (RetinaNetHead, StandardRPNHead)  # FCOS' head is a RetinaNetHead, too
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
# Parameters of mallopt, from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# Names of the layers that predict places and scores. In bfloat16 a keypoint ten locations away is exact to a
# sixteenth of a location, and many scores are equal.
OUTPUT_LAYERS = frozenset(
    (
        *("cls_score", "keypoint_offsets", "encode_points", "visibility"),  # KGDet
        "output",  # RepPoints
        *("bbox_pred", "ctrness"),  # RetinaNet and FCOS, with cls_score; R-CNN
        *("objectness_logits", "anchor_deltas", "score_lowres", "predictor", "embedding"),  # R-CNN
    )
)


def optimize_for_inference(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Change a model in place as ``MODEL.INFERENCE`` says, and return it. It cannot be trained any more.

    Results are the same within float error, with lower precision within that of the features: the layers that
    predict scores, points and boxes, and all that is made of these, stay in float32. FUSE_BN changes the
    state dict.

    Args:
        model: any of Detectron2's, with its trained weights, on its device, in evaluation mode.
        cfg: the model's config.

    Returns:
        The model.

    Raises:
        ValueError: the model is in training mode, or the precision is none that its device computes in, or
            memory cannot be kept.
    """
    if model.training:
        raise ValueError(
            "optimize_for_inference: expected a model in evaluation mode, got one in training mode"
        )
    inference, device = cfg.MODEL.INFERENCE, next(model.parameters()).device
    check_precision(inference.PRECISION, device)
    if inference.KEEP_MEMORY and device.type == "cpu":  # elsewhere PyTorch does
        disable_malloc_trim()
    model.requires_grad_(False)
    if inference.FUSE_BN:
        fuse_batch_norms(model)
    if inference.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
    if inference.COMPILE:
        compile_convolutions(model, device)
    if inference.PRECISION != "float32":
        lower_precision(model, device, getattr(torch, inference.PRECISION))
    return model


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision whose convolutions the device lacks, or has only emulated and many times slower.

    Raises:
        ValueError: naming the precisions that the device computes in.
    """
    if precision == "float16" and device.type == "cpu":
        raise ValueError("MODEL.INFERENCE.PRECISION: expected 'float32' or 'bfloat16' on CPU, got 'float16'")
    if precision == "bfloat16" and device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            raise ValueError(
                f"MODEL.INFERENCE.PRECISION: expected 'float32' or 'float16' on {name}, got 'bfloat16'"
            )


def disable_malloc_trim() -> None:
    """Let this process keep the memory that tensors free, for later tensors.

    By default glibc returns it to the system at once, which must clear every page before it
    gives it out again.

    Raises:
        ValueError: the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # No tensor gets pages of its own, and the heap never shrinks.
    if mallopt is None or not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1)):
        raise ValueError(
            "MODEL.INFERENCE.KEEP_MEMORY: expected False where the C library is not glibc, got True"
        )


def fuse_batch_norms(model: nn.Module) -> None:
    """Fold every BatchNorm, frozen or not, into the convolution whose output it normalises."""
    for module in list(model.modules()):
        if isinstance(module, TimmBackbone):
            _fuse_traced(module.net)
        elif isinstance(module, Conv2d) and _can_be_folded(module.norm):
            _fold(module, module.norm)
            module.norm = None
        elif isinstance(module, nn.Sequential):
            for (_, conv), (name, norm) in pairwise(list(module.named_children())):
                if type(conv) is nn.Conv2d and _can_be_folded(norm):
                    _fold(conv, norm)
                    setattr(module, name, _what_follows(norm))


class _Tracer(fx.Tracer):
    """Traces a network down to its convolutions and BatchNorms."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Return whether a module is one node of the graph."""
        return isinstance(module, (nn.Conv2d, *_BATCH_NORMS)) or super().is_leaf_module(module, name)


def _fuse_traced(net: nn.Module) -> None:
    """Fold each BatchNorm to which the network's graph gives a convolution's output, and to nothing else."""
    try:
        nodes = list(_Tracer().trace(net).nodes)
    except (fx.proxy.TraceError, TypeError) as error:  # what it computes depends on its input
        logger.warning(
            "MODEL.INFERENCE.FUSE_BN has no effect on this backbone, which has no graph: %s", error
        )
        return
    calls = Counter(node.target for node in nodes)
    for node in nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or not before.op == node.op == "call_module":
            continue
        conv, norm = net.get_submodule(str(before.target)), net.get_submodule(str(node.target))
        alone = len(before.users) == calls[before.target] == calls[node.target] == 1
        if alone and isinstance(conv, nn.Conv2d) and _can_be_folded(norm):
            _fold(conv, norm)
            parent, _, name = str(node.target).rpartition(".")
            setattr(net.get_submodule(parent), name, _what_follows(norm))


def _what_follows(norm: nn.Module) -> nn.Module:
    """Return the activation that timm's BatchNorms may have in them."""
    return getattr(norm, "act", nn.Identity())


def _can_be_folded(norm: nn.Module | None) -> bool:
    """Check for a BatchNorm with running statistics; one without them normalises by its input's."""
    return isinstance(norm, _BATCH_NORMS) and norm.running_mean is not None


def _fold(conv: nn.Conv2d, norm: Any) -> None:
    """Scale and shift a convolution's weight and bias as the BatchNorm does its output."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def compile_convolutions(model: nn.Module, device: torch.device) -> None:
    """Compile backbone, towers and dense heads when they first run, on CUDA with CUDA graphs.

    Compiled once for images of all sizes, and once more where a batch is of several. A CUDA graph is recorded
    for each size.
    """
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    for part in _convolutional_parts(model):
        part.forward = torch.compile(part.forward, dynamic=True, mode=mode)
    if device.type == "cuda":
        # The output of one graph must last until the forward pass is over.
        model.register_forward_pre_hook(lambda *_: torch.compiler.cudagraph_mark_step_begin())


def _convolutional_parts(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that are compiled."""
    yield model.get_submodule("backbone")
    for module in model.modules():
        if isinstance(module, PointSetHead):
            yield from (module.cls_tower, module.keypoint_tower)
        elif isinstance(module, _DENSE_HEADS):
            yield module


def lower_precision(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Autocast the forward pass, except for the layers in :data:`OUTPUT_LAYERS`."""
    for name, module in model.named_modules():
        if name.split(".")[-1] in OUTPUT_LAYERS and isinstance(module, _LAYERS):
            module.register_forward_pre_hook(lambda _, inputs: tuple(map(to_float32, inputs)))
            in_full = torch.autocast(device.type, enabled=False)(module.forward)
            module.forward = in_full  # type: ignore[method-assign]
    model.forward = torch.autocast(device.type, dtype)(model.forward)
