"""KGDet, Keypoint-Guided Fashion Detection (AAAI 2021), as a Detectron2 project.

Importing this package registers its meta-architectures, backbones and datasets with Detectron2.
"""

from kgdet_d2 import modeling

__all__ = ["modeling"]
