"""The networks. Importing registers backbones and meta-architectures with Detectron2."""

from kgdet_d2.modeling import fpn, match_rcnn, meta_arch

__all__ = ["fpn", "match_rcnn", "meta_arch"]
