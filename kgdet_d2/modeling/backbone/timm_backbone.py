"""A network of timm as the stages of a feature pyramid.

N images; stage res<l> has stride 2^l, as in Detectron2's ResNet.
"""

from difflib import get_close_matches

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from kgdet_d2.modeling.backbone.fpn import LeanFPN, build_lean_fpn, needed_stages

_KEY = "MODEL.TIMM.NAME"


def create_features(name: str, in_channels: int = 3) -> nn.Module:
    """Create timm's network of a name with random weights, without its classifier.

    Args:
        name: as ``timm.list_models()`` has it; a tag of pretrained weights may follow a dot.
        in_channels: channels of the images.

    Returns:
        (N, in_channels, H, W) -> [(N, C, H/s, W/s)] of rising strides s, which ``feature_info`` describes.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: it has no such network, or one without maps of several strides, channels first.
    """
    import timm

    if not timm.is_model(name):
        known = timm.list_models()
        close = get_close_matches(name.split(".")[0], known, n=5)
        hint = f"close to it: {', '.join(close)}" if close else "see timm.list_models()"
        raise ValueError(f"{_KEY}: expected one of timm's {len(known)} models, got {name!r}; {hint}")
    try:
        features = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{_KEY}: timm gives no feature maps of {name!r}: {error}") from error
    if getattr(features, "output_fmt", "NCHW") != "NCHW":
        raise ValueError(
            f"{_KEY}: expected a model with maps (N, C, H, W), got {name!r}, whose channels are last"
        )
    return features


class TimmBackbone(Backbone):
    """Stages of a network of timm, as far as they are asked for.

    Args:
        name: of the network, see :func:`create_features`.
        out_features: names of the wanted stages, of res2..res5.
        in_channels: channels of the images.

    Raises:
        ValueError: timm has no such network, or one without these strides.
    """

    def __init__(self, name: str, *, out_features: list[str], in_channels: int = 3):
        super().__init__()
        self.model = create_features(name, in_channels)
        info = self.model.feature_info
        strides = info.reduction()
        self._out_features = list(out_features)
        self._out_feature_strides = {stage: 2 ** int(stage.removeprefix("res")) for stage in out_features}
        lacking = sorted(set(self._out_feature_strides.values()) - set(strides))
        if lacking:
            raise ValueError(
                f"{_KEY}: expected a model with maps of strides {list(self._out_feature_strides.values())}, "
                f"got {name!r}, whose strides are {strides}"
            )
        # Of several maps of one stride the last.
        last = {stride: index for index, stride in enumerate(strides)}
        self._indices = {stage: last[stride] for stage, stride in self._out_feature_strides.items()}
        channels = info.channels()
        self._out_feature_channels = {stage: channels[index] for stage, index in self._indices.items()}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the stages of an image.

        Args:
            image: (N, in_channels, H, W), sides divisible by 32.

        Returns:
            {name: (N, C, H/s, W/s)}.
        """
        maps = self.model(image)
        return {stage: maps[index] for stage, index in self._indices.items()}


@BACKBONE_REGISTRY.register()
def build_timm_lean_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LeanFPN:
    """Build a network of timm and :class:`LeanFPN` from ``MODEL.TIMM``, ``BACKBONE`` and ``FPN``."""
    stages = needed_stages(cfg)
    return build_lean_fpn(
        cfg, TimmBackbone(cfg.MODEL.TIMM.NAME, out_features=stages, in_channels=input_shape.channels)
    )
