"""Backbones; importing registers them with Detectron2."""

from kgdet_d2.modeling.backbone.fpn import LeanFPN

__all__ = ["LeanFPN"]
