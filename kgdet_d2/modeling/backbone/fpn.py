"""A ResNet of any width, and a feature pyramid that builds only what its outputs need.

N images; level l has stride 2^l and is named p<l>, made of res<l> where l <= 5.
"""

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from torch import Tensor, nn

EXTRAS_FROM = ("res5", "p5")
FINE = "fine"  # the name of the fine map among the outputs
_BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
# Levels of the pyramid: p2..p5 of the network's stages, p6 and p7 beyond them. The release's whole pyramid
# begins at p3.
_LOWEST, _LOWEST_FULL, _TOP, _HIGHEST = 2, 3, 5, 7


def build_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build the ResNet of ``MODEL.RESNETS``.

    Detectron2 accepts ResNet-18 and -34 with RES2_OUT_CHANNELS 64 alone. Here it is their width: res2 has
    that many channels, each further stage twice as many.
    """
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in _BASIC_BLOCKS or resnets.RES2_OUT_CHANNELS == 64:
        return build_resnet_backbone(cfg, input_shape)
    channels = resnets.STEM_OUT_CHANNELS
    stem = BasicStem(in_channels=input_shape.channels, out_channels=channels, norm=resnets.NORM)
    stages = []
    for index, blocks in enumerate(_BASIC_BLOCKS[resnets.DEPTH]):
        width = resnets.RES2_OUT_CHANNELS * 2**index
        strides = [1 if index == 0 else 2] + [1] * (blocks - 1)
        stage = ResNet.make_stage(
            BasicBlock,
            blocks,
            stride_per_block=strides,
            in_channels=channels,
            out_channels=width,
            norm=resnets.NORM,
        )
        stages.append(stage)
        channels = width
    return ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


class LeanFPN(Backbone):
    """Feature pyramid p2..p5 with further levels by stride-2 convolutions of res5 or p5 (p6) and of p6 (p7).

    Laterals, outputs and the further levels are each followed by ``norm``, or have a bias where it is "".
    There is no activation but FCOS's before p7, see ``extras_from``. With ``out_features`` ["p5"] no top-down
    path exists.

    With a ``fine_level`` there is one output more, "fine", see :class:`FineMap`.

    Args:
        bottom_up: gives res2..res5, as far as needed.
        out_features: names of the wanted levels, consecutive, of p2..p7.
        out_channels: of each level.
        norm: normalisation by Detectron2's names.
        extras_from: what p6 is made of: "res5"; or "p5", with a ReLU between p6 and p7 (FCOS).
        full: build and compute all of p3..p7 whatever ``out_features`` are, as the release does, and p2 where
            it is one of them. The parameters that reach no output then never get a gradient.
        fixed_bn_stats: keep every BatchNorm of ``bottom_up`` in evaluation mode; its weight and bias learn.
        fine_level: "p2" or "p3", the resolution of the fine map; "" for none.
        fine_channels: of the fine map.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        *,
        out_features: list[str],
        out_channels: int,
        norm: str,
        extras_from: str,
        full: bool,
        fixed_bn_stats: bool,
        fine_level: str = "",
        fine_channels: int = 64,
    ):
        super().__init__()
        if extras_from not in EXTRAS_FROM:
            raise ValueError(f"MODEL.FPN.EXTRAS_FROM: expected one of {EXTRAS_FROM}, got {extras_from!r}")
        layers = _built_layers(out_features, extras_from, full)
        self.bottom_up = bottom_up
        self.extras_from = extras_from
        self.fixed_bn_stats = fixed_bn_stats
        self._out_features = list(out_features)
        self._out_feature_strides = {name: 2 ** int(name[1:]) for name in out_features}
        self._out_feature_channels = dict.fromkeys(out_features, out_channels)
        in_channels = {name: shape.channels for name, shape in bottom_up.output_shape().items()}
        lacking = [_res(level) for level in layers["laterals"] if _res(level) not in in_channels]
        if lacking:
            raise ValueError(
                f"MODEL.FPN.OUT_FEATURES: {list(out_features)} need {lacking}, and the network gives "
                f"{list(in_channels)} (MODEL.RESNETS.OUT_FEATURES)"
            )

        self.laterals = nn.ModuleDict()
        for level in layers["laterals"]:
            self.laterals[level] = _conv(in_channels[_res(level)], out_channels, 1, norm=norm)
        self.outputs = nn.ModuleDict()
        for level in layers["outputs"]:
            self.outputs[level] = _conv(out_channels, out_channels, 3, norm=norm)
        self.extras = nn.ModuleDict()
        channels = in_channels.get(extras_from, out_channels)
        for level in layers["extras"]:
            self.extras[level] = _conv(channels, out_channels, 3, stride=2, norm=norm)
            channels = out_channels

        self.fine = None
        if fine_level:
            self.fine = FineMap(in_channels, level=fine_level, out_channels=fine_channels, norm=norm)
            self._out_features.append(FINE)
            self._out_feature_strides[FINE] = 2 ** int(fine_level[1:])
            self._out_feature_channels[FINE] = fine_channels

    @property
    def size_divisibility(self) -> int:
        """Divisor of the image's sides, the stride of p5."""
        return 2**_TOP

    def unused_parameters(self) -> list[str]:
        """Return names of the parameters that reach none of the outputs; some only where ``full``."""
        names = []
        levels = [name for name in self._out_features if name != FINE]
        for kind, needed in _needed_layers(levels, self.extras_from).items():
            for level, layer in getattr(self, kind).items():
                if level not in needed:
                    names += [f"{kind}.{level}.{name}" for name, _ in layer.named_parameters()]
        return names

    def train(self, mode: bool = True) -> "LeanFPN":
        """Set the mode; with ``fixed_bn_stats`` the BatchNorms of ``bottom_up`` stay in evaluation mode."""
        super().train(mode)
        if self.fixed_bn_stats:
            for module in self.bottom_up.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the levels of an image.

        Args:
            image: (N, 3, H, W), sides divisible by 32.

        Returns:
            {name: (N, out_channels, ceil(H/s), ceil(W/s))}.
        """
        res = self.bottom_up(image)
        levels = {}
        if self.fine is not None:
            levels[FINE] = self.fine(res)
        above = None
        for name in reversed(list(self.laterals.keys())):
            merged = self.laterals[name](res[_res(name)])
            if above is not None:
                merged = merged + F.interpolate(above, size=merged.shape[-2:], mode="nearest")
            if name in self.outputs:
                levels[name] = self.outputs[name](merged)
            above = merged
        top = (res | levels).get(self.extras_from)
        for name, layer in self.extras.items():
            if self.extras_from == "p5" and name == "p7":
                top = F.relu(top)
            top = layer(top)
            levels[name] = top
        return {name: levels[name] for name in self._out_features}


class FineMap(nn.Module):
    """One narrow map of high resolution, to locate points on: laterals of all stages down to its level.

    At DeepFashion2's size a 3x3 convolution of the pyramid's 256 channels on p3 costs six times as much as
    all of this with 64.

    Args:
        in_channels: {"res2": channels, ...} up to res5.
        level: "p2" or "p3".
        out_channels: of the map.
        norm: normalisation of the laterals by Detectron2's names.
    """

    def __init__(self, in_channels: dict[str, int], *, level: str, out_channels: int, norm: str):
        super().__init__()
        self.laterals = nn.ModuleDict()
        for name in _names(int(level[1:]), _TOP):
            if _res(name) not in in_channels:
                raise ValueError(
                    f"MODEL.FPN.FINE_LEVEL: {level!r} is made of {_res(name)}, expected among the backbone's "
                    f"outputs, got {sorted(in_channels)}"
                )
            self.laterals[name] = _conv(in_channels[_res(name)], out_channels, 1, norm=norm)

    def forward(self, res: dict[str, Tensor]) -> Tensor:
        """Compute the map (N, out_channels, H, W) of the ResNet's stages."""
        top, *below = reversed(list(self.laterals.keys()))
        merged = self.laterals[top](res[_res(top)])
        for name in below:
            lateral = self.laterals[name](res[_res(name)])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
        return merged


def _conv(in_channels: int, out_channels: int, kernel_size: int, *, norm: str, stride: int = 1) -> Conv2d:
    """Build a convolution that is followed by ``norm``, or has a bias where it is ""."""
    layer = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
    )
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _res(level_name: str) -> str:
    """Return the ResNet stage of a level's stride."""
    return level_name.replace("p", "res")


def _names(first: int, last: int) -> list[str]:
    """Return the names of consecutive levels."""
    return [f"p{level}" for level in range(first, last + 1)]


def _built_layers(out_features: list[str], extras_from: str, full: bool) -> dict[str, list[str]]:
    """Return the levels of each kind of layer, as far as needed or of the whole pyramid."""
    needed = _needed_layers(out_features, extras_from)
    if not full:
        return needed
    pyramid = _names(_LOWEST if f"p{_LOWEST}" in out_features else _LOWEST_FULL, _TOP)
    return {"laterals": pyramid, "outputs": pyramid, "extras": _names(_TOP + 1, _HIGHEST)}


def _needed_layers(out_features: list[str], extras_from: str) -> dict[str, list[str]]:
    """Return the levels of each kind of layer that the outputs depend on: laterals from the lowest up to p5.

    Raises:
        ValueError: the outputs are not consecutive levels of the pyramid.
    """
    allowed = _names(_LOWEST, _HIGHEST)
    levels = [allowed.index(name) + _LOWEST for name in out_features if name in allowed]
    if not levels or list(out_features) != _names(levels[0], levels[-1]):
        raise ValueError(
            f"MODEL.FPN.OUT_FEATURES: expected consecutive levels of {allowed}, got {list(out_features)}"
        )
    low, high = levels[0], levels[-1]
    if extras_from == "p5":
        low = min(low, _TOP)
    return {
        "laterals": _names(low, _TOP),
        "outputs": _names(low, min(high, _TOP)),
        "extras": _names(_TOP + 1, high),
    }


def build_lean_fpn(cfg: CfgNode, bottom_up: Backbone) -> LeanFPN:
    """Build :class:`LeanFPN` over a network from ``MODEL.BACKBONE`` and ``MODEL.FPN``."""
    fpn = cfg.MODEL.FPN
    return LeanFPN(
        bottom_up,
        out_features=fpn.OUT_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        extras_from=fpn.EXTRAS_FROM,
        full=fpn.FULL,
        fixed_bn_stats=cfg.MODEL.BACKBONE.FIXED_BN_STATS,
        fine_level=fpn.FINE_LEVEL,
        fine_channels=fpn.FINE_CHANNELS,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_lean_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LeanFPN:
    """Build the ResNet of ``MODEL.RESNETS`` and :class:`LeanFPN`."""
    return build_lean_fpn(cfg, build_resnet(cfg, input_shape))
