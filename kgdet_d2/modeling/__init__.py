"""The networks. Importing registers backbones and meta-architectures with Detectron2."""

from kgdet_d2.modeling import fpn, meta_arch

__all__ = ["fpn", "meta_arch"]
