"""Detectron2's ResNet, with ResNet-18 and -34 of any width."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet, build_resnet_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

_BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def build_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """The ResNet of ``MODEL.RESNETS``.

    Detectron2 takes ResNet-18 and -34 with RES2_OUT_CHANNELS 64 alone. Here it is their width: res2 has that
    many channels, each further stage twice as many.
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
