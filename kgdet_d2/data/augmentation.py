"""What training does to photos: Detectron2's augmentations, as the config asks."""

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation

_LUMA = (0.299, 0.587, 0.114)  # of R, G, B, as in Detectron2's RandomSaturation


def build_train_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Those of ``INPUT``, in this order: ``CROP``, resize or ``SCALE_JITTER``, ``COLOR``, ``RANDOM_FLIP``.

    Nothing is padded, so that what has left the frame once never comes back into it.
    """
    resize, *flip = build_augmentation(cfg, is_train=True)
    augmentations = [resize]
    if cfg.INPUT.SCALE_JITTER:
        side = cfg.INPUT.MAX_SIZE_TRAIN
        scale = T.ResizeScale(*cfg.INPUT.SCALE_JITTER, target_height=side, target_width=side)
        augmentations = [scale, T.FixedSizeCrop((side, side), pad=False)]
    if cfg.INPUT.CROP.ENABLED:
        augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    color = cfg.INPUT.COLOR
    if any(color.values()):
        augmentations.append(RandomColor(color.BRIGHTNESS, color.CONTRAST, color.SATURATION))
    return [*augmentations, *flip]


class RandomColor(T.Augmentation):
    """Brightness, contrast and saturation of a uint8 (H, W, 3) RGB image changed at random.

    The same as Detectron2's ``RandomBrightness``, ``RandomContrast`` and ``RandomSaturation`` one after the
    other, with the same draws. All three are linear in the pixel, so that one matrix does for them; values
    are rounded and clipped once, at the end. (At 1333 x 800 theirs take longer than reading and resizing.)
    """

    def __init__(self, brightness: float, contrast: float, saturation: float) -> None:
        """Each is the largest change x, 0..1: the factor is drawn uniformly from 1 - x to 1 + x."""
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        changes = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (self._rand_range(1 - x, 1 + x) for x in changes)
        grey = np.tile(_LUMA, (3, 1))
        linear = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
        mean = np.mean(cv2.mean(image)[:3])
        matrix = np.c_[linear, np.full(3, brightness * (1 - contrast) * mean)]
        return T.ColorTransform(lambda pixels: cv2.transform(pixels, matrix))
