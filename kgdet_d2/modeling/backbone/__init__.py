"""Backbones; importing registers them with Detectron2."""

from kgdet_d2.modeling.backbone.fpn import LeanFPN
from kgdet_d2.modeling.backbone.timm_backbone import TimmBackbone

__all__ = ["LeanFPN", "TimmBackbone"]
