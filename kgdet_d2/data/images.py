"""The reading of photos, for training, evaluation, figures and prediction alike."""

from os import PathLike

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image

Photo = str | PathLike | Image.Image | np.ndarray | torch.Tensor  # see to_array


def to_array(photo: Photo, image_format: str) -> np.ndarray:
    """Return a photo as :func:`read_image` does.

    Args:
        photo: a path, a PIL image, an array uint8 (H, W, 3) in RGB or (H, W) in grey, or a tensor uint8
            (3, H, W) in RGB.
        image_format: as there.

    Raises:
        RuntimeError: a file cannot be read.
        ValueError: an array or a tensor of another shape or type.
    """
    if isinstance(photo, str | PathLike):
        return read_image(str(photo), image_format)
    if isinstance(photo, torch.Tensor):
        if photo.dtype != torch.uint8 or photo.ndim != 3 or len(photo) != 3:
            raise ValueError(
                f"photo: expected a tensor uint8 (3, H, W) in RGB, got {photo.dtype} {tuple(photo.shape)}"
            )
        photo = photo.permute(1, 2, 0).cpu().numpy()
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.shape[2:] not in ((), (3,)) or photo.ndim < 2 or not photo.size:
            raise ValueError(
                f"photo: expected an array uint8 (H, W, 3) in RGB or (H, W), got {photo.dtype} {photo.shape}"
            )
        photo = Image.fromarray(photo)
    return _convert(photo, image_format)


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
            return _convert(Image.open(file), image_format)
    # What Pillow raises for damaged files of several formats.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RuntimeError(f"{file_name}: cannot read the image: {error}") from error


def _convert(image: Image.Image, image_format: str) -> np.ndarray:
    upright = utils._apply_exif_orientation(image)
    return utils.convert_PIL_to_numpy(_eight_bits(upright), image_format)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"expected 8 or 16 bits a channel, got Pillow's mode {image.mode!r}")
    return image


def image_to_tensor(image: np.ndarray) -> torch.Tensor:
    """Return an image (H, W, C) as a tensor (C, H, W)."""
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
