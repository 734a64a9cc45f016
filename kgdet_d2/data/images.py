"""The reading of photos, for training, evaluation, figures and prediction alike."""

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image


def read_image(file_name: str, image_format: str) -> np.ndarray:
    """Read an image upright (EXIF orientation applied), as Detectron2's ``read_image`` does.

    Grey, palette and CMYK images are converted to ``image_format``, an alpha channel is left out, and of an
    animation the first picture is taken. Detectron2 makes 16-bit grey white above 255; here its upper byte
    is kept, which is what Pillow does with 16-bit colour.

    Args:
        file_name: the file, of any format that Pillow reads.
        image_format: one of Pillow's modes, ``"BGR"`` or ``"YUV-BT.601"``, as ``INPUT.FORMAT``.

    Returns:
        uint8 (H, W, C), C channels in the order of ``image_format``; float in ``"YUV-BT.601"``.

    Raises:
        RuntimeError: the file cannot be read, or its values have no known range.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            image = utils._apply_exif_orientation(Image.open(file))
            return utils.convert_PIL_to_numpy(_eight_bits(image), image_format)
    # What Pillow raises for damaged files of several formats.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RuntimeError(f"{file_name}: cannot read the image: {error}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"expected 8 or 16 bits a channel, got Pillow's mode {image.mode!r}")
    return image


def image_to_tensor(image: np.ndarray) -> torch.Tensor:
    """Return an image (H, W, C) as a tensor (C, H, W)."""
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
