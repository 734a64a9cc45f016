"""KGDet, Keypoint-Guided Fashion Detection (AAAI 2021), as a Detectron2 project.

Importing this package registers its meta-architectures, backbones and datasets with Detectron2.
"""

import os

from kgdet_d2 import modeling
from kgdet_d2.data.register import register_all

register_all(os.environ.get("DETECTRON2_DATASETS", "datasets"))

__all__ = ["modeling"]
