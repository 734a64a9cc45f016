"""Backbones of timm, by name: small ones for CPUs, and others than ResNets."""

import difflib
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from kgdet_d2.modeling.backbone.fpn import LeanFPN, build_lean_fpn

_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
_PROBE = (96, 32)  # sides of a small image that networks of one input size cannot take


class TimmBackbone(Backbone):
    """A network of timm's, whose feature maps are named as a ResNet's: res2 to res5, strides 4 to 32.

    Args:
        name: of the network in timm, such as "mobilenetv2_100", which must have maps of these strides.
        freeze_at: as Detectron2's ``MODEL.BACKBONE.FREEZE_AT``: 1 freezes what comes before the stride 4, 2
            what makes res2, and so on; the BatchNorms there keep their statistics, too. 0 for nothing.

    Raises:
        ImportError: timm is missing.
        ValueError: timm has no such network, or its maps have other strides or sizes, or it takes images of
            one size alone, or it has no layers of their own for what is to be frozen.
    """

    def __init__(self, name: str, *, freeze_at: int = 0):
        super().__init__()
        net = _create(name)
        self.net: nn.Module = net
        self._info = net.feature_info
        strides, channels = self._info.reduction(), self._info.channels()
        self._indices = {stage: strides.index(stride) for stage, stride in _STRIDES.items()}
        self._out_features = list(_STRIDES)
        self._out_feature_strides = dict(_STRIDES)
        self._out_feature_channels = {stage: channels[index] for stage, index in self._indices.items()}
        if not 0 <= freeze_at <= 5:
            raise ValueError(f"MODEL.BACKBONE.FREEZE_AT: expected 0..5, got {freeze_at}")
        frozen = self._modules_up_to(freeze_at) if freeze_at else []
        for module in frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self._frozen_norms = [
            module for module in frozen if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        self._check_maps(name, freeze_at)

    def _modules_up_to(self, freeze_at: int) -> list[nn.Module]:
        """Return the modules up to a stage, which timm defines in the order in which they run."""
        last_map = self._indices[f"res{max(freeze_at, 2)}"] - (freeze_at == 1)
        names = self._info.module_name()
        modules = list(self.net.named_modules())
        if last_map < 0:  # the stem has no map of its own
            first = next((i for i, (name, _) in enumerate(modules) if _is_within(name, names[0])), 0)
            return [module for _, module in modules[:first]]
        last = max(
            (i for i, (name, _) in enumerate(modules) if _is_within(name, names[last_map])), default=-1
        )
        return [module for _, module in modules[: last + 1]]

    def _check_maps(self, name: str, freeze_at: int) -> None:
        """Compare the maps of a small image with what timm says of them, and what they depend on."""
        height, width = _PROBE
        expected = {
            stage: (1, shape.channels, height // shape.stride, width // shape.stride)
            for stage, shape in self.output_shape().items()
        }
        complaint = f"MODEL.TIMM.NAME: {name!r}: expected of {height} x {width} pixels maps {expected}"
        try:
            with torch.enable_grad():
                maps = self.eval()(torch.zeros(1, 3, height, width))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"{complaint}, got {type(error).__name__}: {error}") from error
        found = {stage: tuple(values.shape) for stage, values in maps.items()}
        if found != expected:
            raise ValueError(f"{complaint}, got {found}")
        learns = [next(self.parameters()).requires_grad, *(values.requires_grad for values in maps.values())]
        if learns != [stage > freeze_at for stage in (1, 2, 3, 4, 5)]:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT: expected 0 with {name!r}, whose stages are no layers in a row, "
                f"got {freeze_at}"
            )
        self.train()

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the maps of images (N, 3, H, W): {"res2": (N, C, H / 4, W / 4), ...}."""
        maps = self.net(image)
        return {stage: maps[index] for stage, index in self._indices.items()}


def _is_within(name: str, module: str) -> bool:
    """Return whether a layer lies in a module; timm flattens some networks, with _ for the dots."""
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in (module, module.replace(".", "_")))


def _create(name: str) -> Any:
    """Return timm's network, a module with random weights and with timm's ``feature_info``."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "this backbone is one of timm's, which is missing: pip install 'kgdet_d2[timm]'", name="timm"
        ) from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        raise ValueError(
            f"MODEL.TIMM.NAME: timm has no network {name!r}; close to it: {', '.join(close) or '-'}"
        )
    try:
        net: Any = timm.create_model(name, pretrained=False, features_only=True)
        strides = net.feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"MODEL.TIMM.NAME: {name!r} has no feature maps of several strides: {error}"
        ) from error
    if not set(_STRIDES.values()) <= set(strides):
        raise ValueError(
            f"MODEL.TIMM.NAME: {name!r}: expected strides {sorted(_STRIDES.values())}, got {strides}"
        )
    return net


@BACKBONE_REGISTRY.register()
def build_timm_lean_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LeanFPN:
    """Build timm's network ``MODEL.TIMM.NAME`` and :class:`LeanFPN`."""
    return build_lean_fpn(cfg, TimmBackbone(cfg.MODEL.TIMM.NAME, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT))
