"""Detectron2's augmentations of training images, as ``INPUT`` sets them."""

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation

_LUMA = (0.299, 0.587, 0.114)  # of R, G, B, as in Detectron2's RandomSaturation


def build_train_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Build ``INPUT``'s, in this order: ``CROP``, resize or ``SCALE_JITTER``, ``COLOR``, ``RANDOM_FLIP``.

    Nothing is padded, so that a point that has left the frame once never comes back into it.
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
    """A random change of brightness, contrast and saturation of a uint8 (H, W, 3) RGB image.

    The same as Detectron2's ``RandomBrightness``, ``RandomContrast`` and ``RandomSaturation`` one after the
    other, with the same draws. All three are linear in the pixel, so that one matrix does for them; values
    are rounded and clipped once, at the end. (At 1333 x 800 theirs take longer than reading and resizing.)
    """

    def __init__(self, brightness: float, contrast: float, saturation: float) -> None:
        """Set the largest change x, 0..1, of each: its factor is drawn uniformly from 1 - x to 1 + x."""
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the three factors, and return the linear map of pixels that they amount to."""
        brightness, contrast, saturation = map(
            self._factor, (self.brightness, self.contrast, self.saturation)
        )
        grey = np.tile(_LUMA, (3, 1))
        linear = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
        mean = np.mean(cv2.mean(image)[:3])
        matrix = np.c_[linear, np.full(3, brightness * (1 - contrast) * mean)]
        return T.ColorTransform(lambda pixels: cv2.transform(pixels, matrix))

    def _factor(self, change: float) -> float:
        return self._rand_range(1 - change, 1 + change)
