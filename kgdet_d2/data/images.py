"""The reading of photos, for training, evaluation, figures and prediction alike."""

import io
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import IO, NamedTuple

import cv2
import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image

Photo = str | PathLike | Image.Image | np.ndarray | torch.Tensor  # see to_array

# Phones make photos of 200 million pixels, of which Pillow's own limit would have none.
MAX_PIXELS = 2**28
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# What Pillow raises for damaged files of several formats.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# Before a segment of an application or a comment, as some cameras and tools leave them.
_AROUND_THE_DATA = re.compile(r"extraneous bytes before marker 0x(e.|fe)")


class PhotoError(RuntimeError):
    """A photo that cannot be read; the message names it and says why."""


# What a mapper raises for a photo: it cannot be read, or has another size than its annotation says.
UNUSABLE_PHOTO = (PhotoError, utils.SizeMismatchError)


def to_array(photo: Photo, image_format: str, *, alpha_on_white: bool = False) -> np.ndarray:
    """Return a photo as :func:`read_image` does.

    Args:
        photo: a path, a PIL image, an array uint8 (H, W, 3) in RGB or (H, W) in grey, or a tensor uint8
            (3, H, W) in RGB.
        image_format: as there.
        alpha_on_white: as there.

    Raises:
        RuntimeError: a file cannot be read.
        ValueError: an array or a tensor of another shape or type.
    """
    if isinstance(photo, str | PathLike):
        return read_image(str(photo), image_format, alpha_on_white=alpha_on_white)
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
    return _convert(photo, image_format, alpha_on_white)


def read_image(file_name: str, image_format: str, *, alpha_on_white: bool = False) -> np.ndarray:
    """Read an image upright (EXIF orientation applied), as Detectron2's ``read_image`` does.

    Grey, palette and CMYK images are converted to ``image_format``, and of an animation the first picture is
    taken. Detectron2 makes 16-bit grey white above 255; here its upper byte
    is kept, which is what Pillow does with 16-bit colour.

    Args:
        file_name: the file, of any format that Pillow reads.
        image_format: one of Pillow's modes, ``"BGR"`` or ``"YUV-BT.601"``, as ``INPUT.FORMAT``.
        alpha_on_white: lay what is transparent on white. Otherwise, as in Detectron2, the colours are taken
            that the file has there, whatever they are.

    Returns:
        uint8 (H, W, C), C channels in the order of ``image_format``; float in ``"YUV-BT.601"``.

    Raises:
        PhotoError: the file cannot be read, its values have no known range, or it has more than
            :data:`MAX_PIXELS`.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            return _convert(open_image(file), image_format, alpha_on_white)
    except _UNREADABLE as error:
        raise PhotoError(f"{file_name}: cannot read the image: {error}") from error


def open_image(file: IO[bytes]) -> Image.Image:
    """Open an image, without decoding it.

    Raises:
        Image.DecompressionBombError: it has more than :data:`MAX_PIXELS`.
        OSError, SyntaxError, ValueError: it is none.
    """
    image = Image.open(file)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(
            f"expected at most {MAX_PIXELS:,} pixels, got {width:,} x {height:,}"
        )
    return image


class StrictPhoto(NamedTuple):
    """A photo that was read strictly.

    Attributes:
        image: uint8 (H, W, 3), RGB, upright.
        warning: what the decoder said of bytes around the picture's own data, "" for nothing.
    """

    image: np.ndarray
    warning: str


def read_strictly(file_name: str) -> StrictPhoto:
    """Read an image as :func:`read_image` does, and refuse it where its content contradicts itself.

    Pillow reads over a damaged middle. So of a PNG the check sums of all chunks are tested, which finds any
    change; and a JPEG, which has none, is decoded once more by OpenCV, where libjpeg says what does not fit.
    That finds where 512 bytes were cut out (of progressive files in three of four) and nearly all of 512
    bytes that were overwritten, but half of 16 bytes and a fifth of single ones, for most bits mean another
    picture. libjpeg says its first warning alone: further ones stay unseen behind one on bytes around the
    data. BMP and GIF have no check sums either.

    Standard error is redirected meanwhile, where the libraries write: no other thread should write there.

    Args:
        file_name: the file, of any format that Pillow reads.

    Raises:
        RuntimeError: the file cannot be read, is damaged inside, or its values have no known range.
    """
    with _told_by_decoders() as warnings_told:
        try:
            with PathManager.open(file_name, "rb") as file:
                content = file.read()
            with open_image(io.BytesIO(content)) as image:
                is_jpeg = image.format in ("JPEG", "MPO")
                image.verify()  # PNG's check sums; of other formats nothing
            converted = _convert(open_image(io.BytesIO(content)), "RGB")
        except _UNREADABLE as error:
            raise RuntimeError(f"{file_name}: cannot read the image: {error}") from error
    if is_jpeg and (damage := _damage_of_jpeg(content, warnings_told)):
        raise RuntimeError(f"{file_name}: cannot read the image: {damage}")
    return StrictPhoto(converted, "; ".join(warnings_told))


def _damage_of_jpeg(content: bytes, warnings_told: list[str]) -> str:
    """Return libjpeg's warning on a file's content, "" where there is none.

    OpenCV has no way to ask for it. An eighth of the size spares all but the decoding of the bits, which is
    where warnings arise.

    Args:
        content: of the file.
        warnings_told: a warning on bytes around the data is added here, and not returned.
    """
    with _told_by_decoders() as said:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    if image is None and not said:
        return "OpenCV cannot decode it"
    if said and _AROUND_THE_DATA.search(said[0]):
        warnings_told += said
        return ""
    return "; ".join(said)


@contextmanager
def _told_by_decoders() -> Iterator[list[str]]:
    """Collect Pillow's warnings and what libraries write to standard error, in a list filled at the end.

    What is equal is listed once.
    """
    told: list[str] = []
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        os.dup2(file.fileno(), 2)
        try:
            yield told
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
        file.seek(0)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        told += dict.fromkeys([*(str(warning.message) for warning in caught), *filter(None, lines)])


def _convert(image: Image.Image, image_format: str, alpha_on_white: bool = False) -> np.ndarray:
    upright = _eight_bits(utils._apply_exif_orientation(image))
    if alpha_on_white and upright.has_transparency_data:
        image = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return utils.convert_PIL_to_numpy(upright, image_format)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"expected 8 or 16 bits a channel, got Pillow's mode {image.mode!r}")
    return image


def image_to_tensor(image: np.ndarray) -> torch.Tensor:
    """Return an image (H, W, C) as a tensor (C, H, W)."""
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
