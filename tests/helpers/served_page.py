"""The page of ``kgdet app``, served by the tests' own process."""

import socket
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from kgdet_d2.engine.app.command import harden_pillow, import_page
from kgdet_d2.engine.app.finder import GarmentFinder

MAX_MEGABYTES, MAX_MEGAPIXELS = 1, 2


class Spread:
    """A predictor that spreads the scores of random weights over 0.9 to 0.1.

    Attributes:
        seen: the photos that it was called with.
        free: cleared, it waits.
    """

    score_threshold = 0.0  # all of them

    def __init__(self, predictor):
        self.predictor, self.mapper, self.seen = predictor, predictor.mapper, []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, photo):
        self.seen.append(photo)
        self.free.wait()
        garments = self.predictor(photo)
        return replace(garments, scores=np.linspace(0.9, 0.1, len(garments), dtype=np.float32))


@contextmanager
def served(predictor, folder, *, score_threshold=0.0, examples=()):
    """Serve the page with its files in a folder; yield it and its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")  # which is not what the arguments say
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        patch.setattr(EpsImagePlugin, "gs_binary", "gs")  # as if Pillow had found a Ghostscript
        harden_pillow(MAX_MEGAPIXELS)
        module = import_page()
        finder = GarmentFinder(predictor, time_limit=60)
        page = module.make_page(finder, score_threshold=score_threshold, examples=examples)
        try:
            yield page, module.serve(page, host="127.0.0.1", port=free_port(), max_megabytes=MAX_MEGABYTES)
        finally:
            page.close(verbose=False)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def write_photos(folder):
    """Write a photo of each kind that is easily read wrongly; return their paths."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a right angle
    Image.fromarray(colour).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(colour).save(folder / "tiff.tiff")
    Image.fromarray(colour).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.dstack([colour, colour[:, :, :1]])).save(folder / "rgba.png")
    Image.fromarray(rng.integers(0, 1 << 16, (60, 90), dtype=np.uint16)).save(folder / "grey16.png")
    return [folder / name for name in ("turned.jpg", "tiff.tiff", "cmyk.jpg", "rgba.png", "grey16.png")]
